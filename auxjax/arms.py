"""The arms of an ablation: combinations of changes, checked before anything trains, with names, group ids and runs."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from auxjax import build, data, parallel, weighting
from auxjax import config as configs
from auxjax.check import finalize
from auxjax.errors import AuxjaxError, unknown
from auxjax.head_gradients import trunk_of
from auxjax.weighting.protocol import CONSTANT

SHOWN_ERRORS = 20
_LONGEST = 120  # of a name; file systems end at 255 bytes
_CHANGE_NOTHING = ("seed", "writers")
# Beginnings of the dotted keys that change no result, beside the seed. Folders go by fewer: a rerun keeps theirs.
IRRELEVANT = (
    "seed", "writers.", "data.data_dir", "diagnostics.", "train.log_", "train.checkpoint_", "train.keep_",
)  # fmt: skip


class Arm(NamedTuple):
    """Runs that differ by seed alone: `overrides` are the arm's changes, `configs` and `runs` (folder names) by seed.

    `equal` holds the changes of other combinations that are the same experiment and so are not trained again.
    """

    name: str
    group: str
    overrides: dict[str, Any]
    configs: tuple[ml_collections.ConfigDict, ...]
    runs: tuple[str, ...]
    equal: tuple[dict[str, Any], ...] = ()


def make(
    config: ml_collections.ConfigDict, combinations: Iterable[Mapping[str, Any]], seeds: Sequence[int] | None = None
) -> list[Arm]:
    """Returns the arms of `config` under each combination of changes, with `seeds`, else those swept or the config's.

    Combinations with one group id are one arm: the same changes twice, those of what changes no result, and arms whose
    every head has weight 0 under a schedule, which train the bare network wherever their heads sit; such an arm loses
    the changes that then change nothing. Raises AuxjaxError for what cannot run: a line for each combination, 20 lines
    at most.
    """
    combinations, checked, errors = list(combinations), set[str](), []
    if seeds is not None and any("seed" in changes for changes in combinations):
        raise AuxjaxError("seed is swept twice: drop --seeds, or seed from the sweep")
    found: dict[str, Arm] = {}
    for changes in combinations:
        arm = {key: value for key, value in changes.items() if key != "seed"}
        try:
            made = apply(config, changes)
            check_runnable(made, checked)
        except AuxjaxError as error:
            errors.append(f"{name_of(changes)}: {error}")
            continue
        for seed in [made.seed] if seeds is None else seeds:
            _add(found, config, arm, seed)
    if errors:
        raise AuxjaxError(_listed(errors, len(combinations)))
    return list(found.values())


def apply(config: ml_collections.ConfigDict, changes: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Returns a finished copy of `config` with the changes; values that refer to a changed one follow it.

    Raises AuxjaxError for an unknown key, naming the nearest, and for all that could not run.
    """
    made = copy.deepcopy(config)
    with made.unlocked(), made.ignore_type():
        for key, value in changes.items():
            *sections, last = key.split(".")
            section = made
            for depth, name in enumerate(sections):
                _check_section(section, name, key, changes)
                if name not in section:
                    section[name] = {}
                section = section[name]
                if not isinstance(section, ml_collections.ConfigDict):
                    raise AuxjaxError(f"unknown config key {key!r}: {'.'.join(sections[: depth + 1])} is no section")
            section[last] = value
    return finalize(made)


def check_runnable(config: ml_collections.ConfigDict, checked: set[str]) -> None:
    """Raises AuxjaxError for data, devices, taps and a trunk that do not serve a finished config; shapes alone.

    `checked` has what was found to serve, so that configs that share a network are traced once.
    """
    dataset = data.load(config.data)
    where = parallel.layout(config.parallel.mode, config.parallel.num_devices)
    parallel.check_batch_size(where, config.data.batch_size, config.optimizer.accumulate)
    data.open_pipeline(dataset, config.data, config.seed, len(where.devices))
    program = build.program(config, dataset.num_classes, 1, 1)
    looks_back = bool(program.weighting.needs & {"gramian", "gradients", "held_out"})
    heads = {name: {**configs.plain(head), "weight": name in program.names} for name, head in config.heads.items()}
    facts = [configs.plain(config.model), heads, config.dtype, dataset.name, dataset.image_shape, dataset.num_classes]
    key = json.dumps([*facts, [program.trunk, config.data.batch_size] if looks_back else None], default=str)
    if key in checked:
        return
    image = jax.ShapeDtypeStruct((1, *dataset.image_shape), jnp.float32)
    variables = jax.eval_shape(program.attached.init, jax.eval_shape(lambda: jax.random.key(0)), image)
    if looks_back:
        size = config.data.batch_size
        inputs: dict[str, Any] = {
            "image": jax.ShapeDtypeStruct((size, *dataset.image_shape), jnp.float32),
            "label": jax.ShapeDtypeStruct((size,), jnp.int32),
        }
        trunk_of(program, variables, inputs)
    checked.add(key)


def group_id(config: Mapping[str, Any] | ml_collections.ConfigDict) -> str:
    """Returns 8 digits for a resolved config without its seed and what changes no result, as `IRRELEVANT` has it.

    Configs in which no head trains, under a schedule, have one id: the bare network's.
    """
    matters = effective(config)
    flat = {key: value for key, value in configs.flatten(matters).items() if not key.startswith(IRRELEVANT)}
    return _digest({"config": flat, "heads": matters["heads"]}, 8)


def effective(config: Mapping[str, Any] | ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns a resolved config less seed, writers and data_dir, and less heads and weighting if no head trains."""
    plain: dict[str, Any] = {key: value for key, value in configs.plain(config).items() if key not in _CHANGE_NOTHING}
    plain["data"] = {key: value for key, value in plain["data"].items() if key != "data_dir"}
    return plain | {"heads": {}, "weighting": {"name": "constant"}} if is_bare(config) else plain


def is_bare(config: Mapping[str, Any] | ml_collections.ConfigDict) -> bool:
    """Returns whether no head of a resolved config trains, and main's loss alone decides every step."""
    weights = {name: configs.plain(head.get("weight")) for name, head in config["heads"].items()}
    try:
        chosen = weighting.choose(config["weighting"])
    except AuxjaxError:
        return False  # a run's config may be of another version, with a weighting that is not known here
    return chosen.weighting is CONSTANT and weighting.dropped(chosen.schedule, weights) == set(weights)


def name_of(changes: Mapping[str, Any], *, longest: int = _LONGEST) -> str:
    """Returns `key=value,...` of the changed keys, safe as a folder's name; "base" where nothing is changed."""
    text = ",".join(f"{key}={_short(value)}" for key, value in changes.items()) or "base"
    return re.sub(r"[^A-Za-z0-9._=,+-]", "_", text)[:longest]


def _add(found: dict[str, Arm], config: ml_collections.ConfigDict, changes: dict[str, Any], seed: int) -> None:
    """Adds a run to the arm of its group, which is made if it is the first."""
    kept = _needed(config, changes)
    made = apply(config, kept | {"seed": seed})
    group = group_id(made)
    run = f"{name_of(kept | {'seed': seed})}-{_digest(effective(made) | {'seed': seed}, 6)}"
    arm = found.setdefault(group, Arm(_free_name(name_of(kept), group, found), group, kept, (), ()))
    if all(known.seed != seed for known in arm.configs):
        arm = arm._replace(configs=(*arm.configs, made), runs=(*arm.runs, run))
    if changes != arm.overrides and changes not in arm.equal:
        arm = arm._replace(equal=(*arm.equal, changes))
    found[group] = arm


def _free_name(name: str, group: str, found: Mapping[str, Arm]) -> str:
    # Values that are cut short, or unsafe in a file's name, may look the same.
    return f"{name}-{group}" if any(arm.name == name for arm in found.values()) else name


def _needed(config: ml_collections.ConfigDict, changes: dict[str, Any]) -> dict[str, Any]:
    """Returns the changes less those of heads and weighting without which the network is still bare."""
    wanted = effective(apply(config, changes))
    if wanted["heads"] or not is_bare(apply(config, changes)):
        return changes
    kept = dict(changes)
    for key in changes:
        fewer = {k: v for k, v in kept.items() if k != key}
        if key.split(".")[0] in ("heads", "weighting") and _same(config, fewer, wanted):
            kept = fewer
    return kept


def _same(config: ml_collections.ConfigDict, changes: dict[str, Any], wanted: dict[str, Any]) -> bool:
    try:
        return effective(apply(config, changes)) == wanted
    except AuxjaxError:
        return False


def _check_section(section: Any, name: str, key: str, changes: Mapping[str, Any]) -> None:
    first, *rest = key.split(".")
    if first == "heads" and rest and name == rest[0] and name not in section and f"heads.{name}.at" not in changes:
        raise unknown("head", name, section) if len(section) else AuxjaxError(f"{key}: the config has no heads")
    if name not in section and first not in configs.OPEN:
        raise unknown("config key", key, configs.flatten(configs.base()))


def _digest(value: Mapping[str, Any], digits: int) -> str:
    # A weighting by depth goes by the heads' order, which sorting loses.
    text = json.dumps([value, list(value["heads"])], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, tuple | list):
        return "+".join(map(_short, value)) or "none"
    if isinstance(value, Mapping):
        return "+".join(_short(v) if k == "name" else f"{k}" for k, v in value.items()) or "none"
    return str(value)


def _listed(errors: Sequence[str], total: int) -> str:
    if total == 1:
        return errors[0]
    more = len(errors) - SHOWN_ERRORS
    lines = [f"{len(errors)} of {total} combinations cannot run, so none is started:", *errors[:SHOWN_ERRORS]]
    return "\n  ".join(lines + ([f"and {more} more"] if more > 0 else []))
