"""Weightings by name, and what a config says of one: its parameters, its trunk, and what goes around it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from auxjax.errors import AuxjaxError, unknown
from auxjax.weighting import (
    asymmetric,
    balanced,
    bandits,
    bilevel,
    compose,
    decomposition,
    directions,
    elementwise,
    gradnorm,
    gramian,
    implicit,
    loss_based,
    normalize,
    policy,
    priority,
    scalarized,
    spectral,
    stochastic,
    surgery,
    tracked,
)
from auxjax.weighting.protocol import CONSTANT, Method, Weighting
from auxjax.weighting.static import SCHEDULES, own_weights

# By what they look at and what they are made for; the README's table is in this order.
FAMILIES: dict[str, dict[str, Method]] = {
    "losses alone": {**loss_based.METHODS, **scalarized.METHODS},
    "gradients, symmetric": {**gramian.METHODS, **spectral.METHODS, **surgery.METHODS, **gradnorm.METHODS},
    "gradients, main first": {
        **asymmetric.METHODS, **directions.METHODS, **balanced.METHODS, **decomposition.METHODS, **priority.METHODS,
    },
    "gradients, by coordinate or tracked over steps": {
        **elementwise.METHODS, **tracked.METHODS, **stochastic.METHODS,
    },
    "looking ahead on held-out examples": {**bilevel.METHODS, **implicit.METHODS},
    "controllers": {**bandits.METHODS, **policy.METHODS},
}  # fmt: skip
METHODS: dict[str, Method] = {name: method for family in FAMILIES.values() for name, method in family.items()}
NAMES = (*SCHEDULES, "depth_decay", *METHODS)

# What a method's section may say beside the method's own parameters.
AROUND: dict[str, Any] = {
    "schedule": {"name": "constant"},  # multiplies every head's own weight, before the method sees losses and gradients
    "trunk": "shared",  # shared, shallowest, taps, or the path of a submodule
    "pullbacks": "sequential",  # or vmapped
    "normalize": "native",  # or main, sum_one, sum_k: what the weights are divided by
    "warm_up_steps": 0,  # with weights of 1
    "every_steps": 1,  # decided anew so often, held in between
    "ema": 0.0,  # decay of the average over the weights
}
_CHOICES = {"pullbacks": ("sequential", "vmapped"), "normalize": normalize.CONVENTIONS}


class Chosen(NamedTuple):
    """What a config's weighting section asks for: the schedule over the heads' own weights, and the method."""

    schedule: Mapping[str, Any]
    weighting: Weighting
    trunk: str
    pullbacks: str


def choose(config: Mapping[str, Any]) -> Chosen:
    """Returns what `{"name": a schedule or a method, its parameters}` says.

    A method's section may also have `schedule`, `trunk`, `pullbacks`, `normalize`, `warm_up_steps`, `every_steps` and
    `ema`. Raises AuxjaxError for an unknown name or parameter, and for a value of another kind or out of range.
    """
    name = config.get("name", "")
    if not isinstance(name, str) or name not in NAMES:
        raise unknown("weighting", str(name), NAMES)
    if name not in METHODS:
        return Chosen(config, CONSTANT, "shared", "sequential")
    given = {key: value for key, value in config.items() if key != "name"}
    around = {key: given.pop(key, default) for key, default in AROUND.items()}
    _check_around(around, name)
    if around["ema"] and name in FAMILIES["controllers"]:
        raise AuxjaxError(f"ema of weighting {name!r} must be 0: a controller is paid for the weights that it chose")
    check_parameters(METHODS[name].make, given, f"weighting {name!r}", also=tuple(AROUND))
    weighting = normalize.normalized(METHODS[name].make(**given), around["normalize"])
    wanted = [key for key in ("ema", "every_steps") if around[key] != AROUND[key]]
    if wanted and compose.gives_direction(weighting):
        raise AuxjaxError(f"{wanted[0]} of weighting {name!r} must be left out: it gives a direction and not weights")
    if around["ema"]:
        weighting = compose.ema(weighting, around["ema"])
    if around["warm_up_steps"]:
        weighting = compose.warm_up(CONSTANT, weighting, around["warm_up_steps"])
    # Outermost, so that the steps in between need no gradients.
    if around["every_steps"] > 1:
        weighting = compose.every(weighting, around["every_steps"])
    return Chosen(around["schedule"], weighting, around["trunk"], around["pullbacks"])


def check_parameters(factory: Any, fields: Mapping[str, Any], what: str, also: tuple[str, ...] = ()) -> None:
    """Raises AuxjaxError for a parameter that `factory` does not take, or that is not of its default's kind."""
    valid = inspect.signature(factory).parameters
    for key, value in fields.items():
        if key not in valid:
            raise unknown(f"parameter of {what}", key, [*valid, *also])
        if isinstance(value, jax.Array):
            continue  # the argument of a compiled program, checked before it became one
        _check_kind(value, valid[key].default, f"parameter {key} of {what}")


def _check_kind(value: Any, default: Any, what: str) -> None:
    number = isinstance(default, int | float) and not isinstance(default, bool)
    if number and (isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)):
        raise AuxjaxError(f"{what} must be a finite number, not {value!r}")
    if isinstance(default, int) and number and not isinstance(value, int):
        raise AuxjaxError(f"{what} must be a whole number, not {value!r}")
    if not number and type(value) is not type(default):
        raise AuxjaxError(f"{what} must be a {type(default).__name__}, as in {default!r}, not {value!r}")


def _check_around(around: Mapping[str, Any], name: str) -> None:
    for key, value in around.items():
        what = f"{key} of weighting {name!r}"
        if key == "schedule":
            if not isinstance(value, Mapping):
                raise AuxjaxError(f"{what} is a section such as {{'name': 'linear_decay'}}, not {value!r}")
            own_weights(value, {})
            continue
        _check_kind(value, AROUND[key], what)
        if key in _CHOICES and value not in _CHOICES[key]:
            raise unknown(what, value, _CHOICES[key])
    if not 0 <= around["ema"] < 1:
        raise AuxjaxError(f"ema={around['ema']} of weighting {name!r} must be in [0, 1)")
    if around["every_steps"] < 1 or around["warm_up_steps"] < 0:
        raise AuxjaxError(f"weighting {name!r}: every_steps must be at least 1 and warm_up_steps at least 0")
