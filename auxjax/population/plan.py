"""Which members can train as one program: those whose configs differ in numbers and in where a head sits."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from auxjax import build, data
from auxjax.config import flatten, plain
from auxjax.heads import cost
from auxjax.population.numbers import is_method, number_keys
from auxjax.proof import bare_shapes

# Heads at all candidate taps share a program where they add at most this much to the model's FLOPs and parameters.
_CHEAP = 0.25


class Group(NamedTuple):
    """Members that share a program.

    `members` are positions in the list that was planned; `config` is the program's, with a head at every place that a
    member has one; `keys` are its numbers; `own` tells for each member which head of the program is which of its own.
    """

    members: tuple[int, ...]
    config: ConfigDict
    keys: tuple[str, ...]
    own: tuple[Mapping[str, str], ...]


def plan(configs: Sequence[ConfigDict]) -> list[Group]:
    """Returns the groups of finished configs that share a program, in the order of their first members.

    A key is a number in the program or changes it (`numbers.NUMBERS`). Where a head sits is a number, a weight of 0 at
    all places but one, if the weighting is a schedule, the head's weight is plain, and heads at all places together
    cost at most a quarter of the model. What a member computes depends on the list that was planned, so that a part of
    it is trained by planning all of it.
    """
    joined: dict[str, list[int]] = {}
    for index, config in enumerate(configs):
        joined.setdefault(_structure(config, positions=True), []).append(index)
    groups = []
    for members in joined.values():
        if len(_places(configs, members)) > 1 and _cheap(configs, members):
            groups.append(_group(configs, members))
            continue
        apart: dict[str, list[int]] = {}
        for index in members:
            apart.setdefault(_structure(configs[index], positions=False), []).append(index)
        groups += [_group(configs, part) for part in apart.values()]
    return sorted(groups, key=lambda group: group.members[0])


def numbers_of(group: Group, config: ConfigDict, own: Mapping[str, str]) -> dict[str, jax.Array]:
    """Returns a member's values at the group's keys, float32 scalars; a head that it does not have has weight 0."""
    flat, values = flatten(config), {}
    for key in group.keys:
        section, _, rest = key.partition(".")
        name, _, field = rest.partition(".")
        value = flat.get(key)
        if section == "heads":
            value = flat[f"heads.{own[name]}.{field}"] if name in own else 0.0
        values[key] = jnp.float32(value)
    return values


def _structure(config: ConfigDict, *, positions: bool) -> str:
    """Returns what has to be equal for configs to share a program; with `positions`, taps need not be."""
    flat = flatten(config)
    free = {"seed", *number_keys(config)}
    if not is_method(config):
        for name, head in config.heads.items():
            free.add(f"heads.{name}.weight")  # 0 as well
            if positions and isinstance(head["weight"], float):
                free.add(f"heads.{name}.at")
    return json.dumps({key: "free" if key in free else plain(value) for key, value in flat.items()}, sort_keys=True)


def _places(configs: Sequence[ConfigDict], members: Sequence[int]) -> set[tuple[str, ...]]:
    return {tuple(head["at"] for head in configs[index].heads.values()) for index in members}


def _group(configs: Sequence[ConfigDict], members: Sequence[int]) -> Group:
    """Returns the group of members that share a program; heads of weight 0 in all of them are not in its numbers."""
    first = configs[members[0]]
    places: dict[str, list[str]] = {name: [] for name in first.heads}
    for index in members:
        for name, head in configs[index].heads.items():
            if head["at"] not in places[name]:
                places[name].append(head["at"])
    heads, own = {}, [{} for _ in members]  # type: tuple[dict[str, Any], list[dict[str, str]]]
    for name, taps in places.items():
        for number, tap in enumerate(taps):
            there = f"{name}@{number}" if len(taps) > 1 else name
            having = [i for i, index in enumerate(members) if configs[index].heads[name]["at"] == tap]
            weights = [configs[members[i]].heads[name]["weight"] for i in having]
            trained = not is_method(first) and isinstance(weights[0], float) and any(weights)
            heads[there] = plain(first.heads[name]) | {"at": tap} | ({"weight": 1.0} if trained else {})
            for i in having:
                own[i][there] = name
    config = copy.deepcopy(first.to_dict()) | {"heads": heads}
    keys = [key for key in number_keys(config) if not _all_zero(key, config)]
    return Group(tuple(members), ConfigDict(config).lock(), tuple(keys), tuple(own))


def _all_zero(key: str, config: Mapping[str, Any]) -> bool:
    section, _, rest = key.partition(".")
    name, _, field = rest.partition(".")
    return section == "heads" and field == "weight" and config["heads"][name]["weight"] == 0


def _cheap(configs: Sequence[ConfigDict], members: Sequence[int]) -> bool:
    group = _group(configs, members)
    dataset = data.load(group.config.data)
    image = jax.ShapeDtypeStruct((1, *dataset.image_shape), jnp.float32)
    built = build.assemble(group.config, dataset.num_classes, 1, 1)
    attached, whole = built.attached, cost(built.attached.model, image)
    shapes = attached.tap_shapes(bare_shapes(attached.model, image), image)
    parts = [cost(attached.heads[name].module, shape) for name, shape in shapes.items()]
    return all(sum(part[what] for part in parts) <= _CHEAP * whole[what] for what in ("params", "flops"))
