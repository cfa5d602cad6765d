"""Weights that follow a schedule: functions of the progress p in [0, 1] alone, which work inside jit."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from auxjax.config import is_on
from auxjax.errors import AuxjaxError, unknown

Schedule = Callable[[Any], Any]


def constant(value: float = 1.0) -> Schedule:
    """Returns w(p) = value."""
    return lambda p: jnp.full(jnp.shape(p), value, jnp.float32)


def linear_decay(start: float = 1.0, floor: float = 0.0) -> Schedule:
    """Returns w(p) = max(start (1 - p), floor)."""
    return lambda p: jnp.maximum(start * (1.0 - p), floor)


def linear_to_zero(start: float = 1.0, end_percent: float = 100.0) -> Schedule:
    """Returns w(p) = start max(0, 1 - p / e), zero from e = `end_percent` of training on."""
    return lambda p: start * jnp.maximum(0.0, 1.0 - p / (end_percent / 100.0))


def cosine(start: float = 1.0, floor: float = 0.0) -> Schedule:
    """Returns w(p) = floor + (start - floor) (1 + cos(pi p)) / 2."""
    return lambda p: floor + (start - floor) * (1.0 + jnp.cos(jnp.pi * p)) / 2.0


def step(start: float = 1.0, gamma: float = 0.1, every_percent: float = 30.0) -> Schedule:
    """Returns w(p) = start gamma^floor(p / e), e = `every_percent` of training."""
    # The small shift keeps a boundary such as 0.9 / 0.3, which rounds below 3, on its own side.
    return lambda p: start * gamma ** jnp.floor(p / (every_percent / 100.0) + 1e-6)


def exponential(start: float = 1.0, rate: float = 5.0) -> Schedule:
    """Returns w(p) = start exp(-rate p)."""
    return lambda p: start * jnp.exp(-rate * p)


def polynomial(start: float = 1.0, power: float = 2.0) -> Schedule:
    """Returns w(p) = start (1 - p)^power."""
    return lambda p: start * (1.0 - p) ** power


def ramp_up(start: float = 0.01, end: float = 1.0) -> Schedule:
    """Returns w(p) = start + p (end - start), as in Shallow-Deep Networks (Kaya et al. 2019, arXiv 1810.07052)."""
    return lambda p: start + p * (end - start)


def cutoff(start: float = 1.0, end_percent: float = 50.0) -> Schedule:
    """Returns w(p) = start [p < e], e = `end_percent` of training."""
    return lambda p: jnp.where(p < end_percent / 100.0, start, 0.0)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant, "linear_decay": linear_decay, "linear_to_zero": linear_to_zero, "cosine": cosine,
    "step": step, "exponential": exponential, "polynomial": polynomial, "ramp_up": ramp_up, "cutoff": cutoff,
}  # fmt: skip


def depth_decay(decay: float = 0.5) -> list[str]:
    """Names the parameters of the weighting of that name: w_l = decay^l, l = 1 for the deepest head, 0 for main.

    Heads are in the config's order, shallow to deep, and each weight is multiplied by the head's own. All K are then
    divided by the sum of decay^l, so that equal heads sum to 1 (nnU-Net's deep supervision: decay 1/2).
    """
    return ["decay"]


WEIGHTINGS: dict[str, Callable[..., Any]] = {**SCHEDULES, "depth_decay": depth_decay}


def schedule(config: Mapping[str, Any], what: str = "schedule") -> Schedule:
    """Returns the schedule of `{"name": ..., its parameters}`; raises AuxjaxError for an unknown name or parameter."""
    fields = dict(config)
    name = fields.pop("name", "")
    if not isinstance(name, str) or name not in SCHEDULES:
        raise unknown(what, str(name), SCHEDULES)
    check_parameters(SCHEDULES[name], fields, f"{what} {name!r}")
    return SCHEDULES[name](**fields)


def check_parameters(factory: Callable[..., Any], fields: Mapping[str, Any], what: str) -> None:
    """Raises AuxjaxError for a parameter that `factory` does not take or that is out of range."""
    valid = inspect.signature(factory).parameters
    for key, value in fields.items():
        if key not in valid:
            raise unknown(f"parameter of {what}", key, valid)
        if isinstance(value, jax.Array):
            continue  # the argument of a compiled program, checked before it became one
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise AuxjaxError(f"parameter {key} of {what} must be a number, not {value!r}")
        if not 0 <= value < math.inf or (key.endswith("percent") and not value):
            expected = "positive" if key.endswith("percent") else "at least 0"
            raise AuxjaxError(f"parameter {key} of {what} must be {expected} and finite, not {value!r}")


def own_weights(config: Mapping[str, Any], head_weights: Mapping[str, Any], main_weight: float = 1.0) -> Schedule:
    """Returns p -> float32[K]: weight_i(p) = head weight_i(p) * schedule(p) for the heads and `main_weight` for main.

    `config` is `{"name": a schedule, its parameters}`, the factor common to all heads ("depth_decay" instead gives each
    its own); a head's weight is a number or a schedule of its own. Raises AuxjaxError for what is in no registry.
    """
    own = [
        schedule(w, f"weight of head {name!r}") if isinstance(w, Mapping) else constant(w)
        for name, w in head_weights.items()
    ]
    factors = _factors(config, len(own))

    def weights(progress: Any) -> jax.Array:
        p = jnp.asarray(progress, jnp.float32)
        common = factors(p)
        values = [jnp.full_like(p, main_weight) * common[0], *(w(p) * f for w, f in zip(own, common[1:], strict=True))]
        return jnp.stack([jnp.asarray(w, jnp.float32) for w in values])

    return weights


def dropped(config: Mapping[str, Any], head_weights: Mapping[str, Any]) -> frozenset[str]:
    """Returns the heads whose weight is 0 at every step, which need not be computed."""
    if config.get("name") == "constant" and not is_on(config.get("value", 1.0)):
        return frozenset(head_weights)
    return frozenset(name for name, weight in head_weights.items() if _is_zero(weight))


def _is_zero(weight: Any) -> bool:
    if isinstance(weight, Mapping):
        return weight.get("name") == "constant" and not is_on(weight.get("value", 1.0))
    return not is_on(weight)


def _factors(config: Mapping[str, Any], heads: int) -> Callable[[jax.Array], list[Any]]:
    if config.get("name") != "depth_decay":
        common = schedule(config, "weighting")
        return lambda p: [1.0, *[common(p)] * heads]
    fields = {key: value for key, value in config.items() if key != "name"}
    check_parameters(depth_decay, fields, "weighting 'depth_decay'")
    powers = [fields.get("decay", 0.5) ** distance for distance in (0, *range(heads, 0, -1))]
    return lambda p: [power / sum(powers) for power in powers]
