"""Which keys of a config are numbers in a compiled program, and so need no program of their own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import jax

from auxjax.config import flatten, plain
from auxjax.weighting import METHODS

# A * stands for one key. `seed` is a number too: it makes the first state and the order of the data.
NUMBERS = (
    "heads.*.weight", "heads.*.weight.*", "heads.*.dropout_rate", "main.weight", "weighting.*", "weighting.schedule.*",
    "optimizer.learning_rate", "optimizer.weight_decay", "optimizer.momentum", "optimizer.heads_learning_rate_factor",
    "optimizer.schedule.floor", "optimizer.schedule.gamma", "data.label_noise", "model.dropout_rate",
)  # fmt: skip
# Where these have the value that stands here, part of the program is not there.
OFF = {
    "optimizer.weight_decay": 0.0, "optimizer.momentum": 0.0, "optimizer.heads_learning_rate_factor": 1.0,
    "data.label_noise": 0.0, "model.dropout_rate": 0.0, "heads.*.dropout_rate": 0.0,
}  # fmt: skip


def is_method(config: Mapping[str, Any]) -> bool:
    """Returns whether the weighting of a config is a method, which looks at losses or gradients, not a schedule."""
    return config["weighting"]["name"] in METHODS


def number_keys(config: Mapping[str, Any]) -> list[str]:
    """Returns the dotted keys of a finished config whose values are arguments of its program, in order.

    Floats of `NUMBERS` are, unless they are at the value of `OFF` that takes a part out of the program. A weight of 0
    is an argument under a schedule; a method sees as many losses as there are weights that are not 0. Parameters of a
    method are no arguments, since methods decide on them in Python; nor is the dropout of scanned layers.
    """
    keys = []
    for key, value in flatten(config).items():
        pattern = _matching(key)
        if pattern is None or type(value) is not float:
            continue
        if pattern in OFF and value == OFF[pattern]:
            continue
        if is_method(config) and (pattern == "weighting.*" or (pattern == "heads.*.weight" and value == 0)):
            continue
        if pattern == "model.dropout_rate" and config["model"].get("scan"):
            continue
        keys.append(key)
    return keys


def with_numbers(config: Mapping[str, Any], numbers: Mapping[str, jax.Array]) -> dict[str, Any]:
    """Returns the config as nested dicts in which the arguments of a compiled function stand at their keys."""
    filled = copy.deepcopy(plain(config))
    for key, value in numbers.items():
        *sections, last = key.split(".")
        section = filled
        for name in sections:
            section = section[name]
        section[last] = value
    return filled


def _matching(key: str) -> str | None:
    parts = key.split(".")
    for pattern in NUMBERS:
        names = pattern.split(".")
        if len(names) == len(parts) and all(n in ("*", p) for n, p in zip(names, parts, strict=True)):
            return pattern
    return None
