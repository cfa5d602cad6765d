"""Arms: runs whose configs differ only by seed, named by what tells the arms apart, each with its baseline."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from auxjax.arms import IRRELEVANT, group_id
from auxjax.errors import unknown
from auxjax.report.runs import Run, flat, resolved
from auxjax.weighting.static import WEIGHTINGS as STATIC

Features = dict[str, Any]


class Arm(NamedTuple):
    """Runs that differ only by seed.

    `features` are what tells this arm from the others: "at" and "weight" of its heads, other fields of heads, and
    config keys outside them. `baseline` is the name of the arm that this one is compared with, its own for a baseline.
    """

    name: str
    group: str
    config: dict[str, Any]
    features: Features
    runs: list[Run]
    baseline: str


def make_arms(runs: Sequence[Run], ablation: Mapping[str, Any], baseline: str = "") -> tuple[list[Arm], str]:
    """Returns the arms in the order of what tells them apart, baselines first, and how those were chosen.

    The baseline is the arm named `baseline`, else the ablation's, else for each arm the one with no heads or all
    weights 0 that is closest to it in the other keys, else the first. Runs without a config belong to no arm. Raises
    AuxjaxError for a baseline that is no arm.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.config:
            groups.setdefault(group_id(resolved(run)), []).append(run)
    bare = [Arm("", group, flat(members[0]), {}, members, "") for group, members in groups.items()]
    named = _name(bare)
    chosen, how = _choose(named, ablation, baseline)
    arms = [arm._replace(baseline=chosen[arm.name]) for arm in named]
    axes = varied(arms)
    return sorted(
        arms, key=lambda arm: (arm.name != arm.baseline, [_order(arm.features.get(axis)) for axis in axes])
    ), how


def varied(arms: Sequence[Arm]) -> list[str]:
    """Returns the features that take more than one value among the arms, "at" and "weight" first."""
    keys = {key: None for arm in arms for key in arm.features}
    values = {key: {str(arm.features[key]) for arm in arms if key in arm.features} for key in keys}
    return [key for key in keys if len(values[key]) > 1]


def without(arms: Sequence[Arm], key: str) -> list[Arm]:
    """Returns the arms in their order, named and told apart as if their configs had no such dotted key."""
    others = [arm._replace(config={k: v for k, v in arm.config.items() if k != key}) for arm in arms]
    named = _name(others)
    names = {arm.name: other.name for arm, other in zip(arms, named, strict=True)}
    return [
        other._replace(config=arm.config, baseline=names[arm.baseline]) for arm, other in zip(arms, named, strict=True)
    ]


def heads_of(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns `{head: {field: value}}` of a flattened config, heads in the order of their names' numbers."""
    heads: dict[str, dict[str, Any]] = {}
    for key, value in config.items():
        section, _, rest = key.partition(".")
        name, _, field = rest.partition(".")
        if section == "heads" and field:
            heads.setdefault(name, {})[field] = value
    return dict(sorted(heads.items(), key=lambda item: (len(item[0]), item[0])))


def is_plain(config: Mapping[str, Any]) -> bool:
    """Returns whether a config trains the network alone: no heads, or all of weight 0 under a static weighting."""
    # A weight that is a schedule has no number of its own; a dynamic method may learn its way from 0.
    weights = [head.get("weight", 1) for head in heads_of(config).values()]
    return not weights or (not any(weights) and config.get("weighting.name", "constant") in STATIC)


def _name(arms: Sequence[Arm]) -> list[Arm]:
    features = [_features(arm.config, [other.config for other in arms]) for arm in arms]
    names = [", ".join(_label(key, value) for key, value in each.items()) or _only(arm) for each, arm in
             zip(features, arms, strict=True)]  # fmt: skip
    unique = [f"{name} ({arm.group})" if names.count(name) > 1 else name for name, arm in zip(names, arms, strict=True)]
    return [
        arm._replace(name=name, features=each) for arm, name, each in zip(arms, unique, features, strict=True)
    ]  # fmt: skip


def _features(config: Mapping[str, Any], all_configs: Sequence[Mapping[str, Any]]) -> Features:
    """Returns what tells a config from the others; heads are described together, fields equal in all heads once."""
    features: Features = {}
    positions = [_position(other) for other in all_configs]
    if len(set(positions)) > 1:
        features["at"] = _position(config)
    heads = heads_of(config)
    with_heads = [heads_of(other) for other in all_configs if heads_of(other)]
    fields = sorted({field for other in with_heads for head in other.values() for field in head} - {"at"})
    for field in sorted(fields, key=lambda field: field != "weight"):
        if heads and len({_joined(other, field) for other in with_heads}) > 1:
            features[field] = _value(heads, field)
    outside = {key: None for other in all_configs for key in other if not key.startswith(("heads.", *IRRELEVANT))}
    for key in outside:
        if key != "heads" and len({repr(other.get(key)) for other in all_configs}) > 1 and key in config:
            features[key] = config[key]
    return {_short(key, features): value for key, value in features.items()}


def _position(config: Mapping[str, Any]) -> str:
    places = [str(head.get("at", name)) for name, head in heads_of(config).items()]
    if not places:
        return "no heads"
    return "+".join(places) if len(places) <= 2 else f"{len(places)} heads, {places[0]} to {places[-1]}"


def _value(heads: Mapping[str, Mapping[str, Any]], field: str) -> Any:
    values = [head.get(field, "default") for head in heads.values()]
    return values[0] if len(set(map(str, values))) == 1 else _joined(heads, field)


def _joined(heads: Mapping[str, Mapping[str, Any]], field: str) -> str:
    values = [_text(head.get(field, "default")) for head in heads.values()]
    return values[0] if len(set(values)) == 1 else "/".join(values)


def _short(key: str, keys: Mapping[str, Any]) -> str:
    """Returns the shortest end of a dotted key that no other key has."""
    parts = key.split(".")
    for start in range(len(parts) - 1, 0, -1):
        end = ".".join(parts[start:])
        if end not in ("name", "at", "weight") and sum(("." + other).endswith("." + end) for other in keys) == 1:
            return end
    return key


def _label(key: str, value: Any) -> str:
    if key == "at":
        return str(value) if "heads" in str(value) else f"at {value}"
    key = key.removesuffix(".name")
    return f"{key} {_text(value)}" if key == "weight" else f"{key}={_text(value)}"


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _only(arm: Arm) -> str:
    heads = len(heads_of(arm.config))
    count = "no heads" if not heads else f"{heads} head{'s' * (heads > 1)}"
    return f"{arm.config.get('model.name', 'model')}, {count}"


def _choose(arms: Sequence[Arm], ablation: Mapping[str, Any], baseline: str) -> tuple[dict[str, str], str]:
    """Returns the baseline's name of each arm, and how it was chosen."""
    names = [arm.name for arm in arms]
    if baseline:
        if baseline not in names:
            raise unknown("baseline", baseline, names)
        return dict.fromkeys(names, baseline), f"Arms are compared with {baseline!r}, as asked for."
    wanted = ablation.get("baseline")
    if isinstance(wanted, dict):
        for arm in arms:
            if all(str(arm.config.get(key)) == str(value) for key, value in wanted.items()):
                return dict.fromkeys(names, arm.name), f"Arms are compared with {arm.name!r}, the ablation's baseline."
    plain = [arm for arm in arms if is_plain(arm.config)]
    if plain and len(plain) < len(arms):
        chosen = {arm.name: min(plain, key=lambda other: _distance(arm, other)).name for arm in arms}
        shown = " or ".join(repr(name) for name in dict.fromkeys(chosen.values()))
        closest = "" if len(set(chosen.values())) == 1 else ", whichever has the same other keys"
        return chosen, f"Arms are compared with {shown}: training without heads{closest}."
    if len(arms) < 2:
        return {name: name for name in names}, "There is one arm: nothing to compare it with."
    return dict.fromkeys(names, names[0]), (
        f"No arm trains without heads, so arms are compared with the first, {names[0]!r}; choose with --baseline."
    )


def _order(value: Any) -> tuple[float, list[tuple[float, str]]]:
    """Returns what sorts numbers by size, and text with the numbers in it by theirs, after them."""
    if value is None or isinstance(value, int | float):
        return (-math.inf if value is None else float(value), [])
    parts = re.split(r"(\d+)", str(value))
    return math.inf, [(float(part), "") if part.isdigit() else (-1.0, part) for part in parts]


def _distance(arm: Arm, other: Arm) -> tuple[int, int]:
    keys = {key for key in {**arm.config, **other.config} if not key.startswith(IRRELEVANT)}
    different = [key for key in keys if str(arm.config.get(key)) != str(other.config.get(key))]
    outside = [key for key in different if key.partition(".")[0] not in ("heads", "weighting")]
    return len(outside), len(different)
