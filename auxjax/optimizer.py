"""Optax chains from a config: clipping, the optimizer, its learning rate, and the heads' own factor on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from auxjax.config import duration, is_on
from auxjax.errors import unknown

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "lars", "lamb")
SCHEDULES = ("constant", "cosine", "linear", "step", "exponential")


def make(
    config: Mapping[str, Any], total_steps: int, steps_per_epoch: int, batch_size: int
) -> optax.GradientTransformation:
    """Returns clip by global norm -> the optimizer's update -> the heads' factor.

    The parameters are `{"model": ..., "heads": {...}}`. Weight decay leaves out vectors (biases, BatchNorm); it joins
    the gradient for sgd, adam, rmsprop and lars (L2), the direction for adamw and lamb (decoupled). Raises AuxjaxError
    for an unknown optimizer or schedule.
    """
    if config["name"] not in OPTIMIZERS:
        raise unknown("optimizer", config["name"], OPTIMIZERS)
    rate = learning_rate(config, total_steps, steps_per_epoch, batch_size)
    factor = config["heads_learning_rate_factor"]
    return optax.chain(
        optax.clip_by_global_norm(config["clip_norm"]) if config["clip_norm"] else optax.identity(),
        _update(config, rate),
        optax.masked(optax.scale(factor), _only_heads) if is_on(factor, off=1.0) else optax.identity(),
    )


def learning_rate(
    config: Mapping[str, Any], total_steps: int, steps_per_epoch: int, batch_size: int
) -> Callable[[Any], Any]:
    """Returns the learning rate as a function of the step: linear warm-up from 0, then the schedule.

    cosine and linear fall to `floor` at the last step; step and exponential shrink by `gamma` every `every_percent` of
    training, step at once and exponential evenly.
    """
    schedule, peak = config["schedule"], config["learning_rate"]
    if schedule["name"] not in SCHEDULES:
        raise unknown("learning rate schedule", schedule["name"], SCHEDULES)
    sizes = {"steps_per_epoch": steps_per_epoch, "batch_size": batch_size, "total_steps": total_steps}
    warmup = duration(schedule, "warmup", required=False, **sizes)
    rest, floor = max(total_steps - warmup, 1), schedule["floor"]
    every = max(round(total_steps * schedule["every_percent"] / 100), 1)
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest, alpha=floor / peak if is_on(peak) else 0.0),
        "linear": lambda: optax.linear_schedule(peak, floor, rest),
        "step": lambda: lambda step: peak * schedule["gamma"] ** ((step + warmup) // every),
        "exponential": lambda: lambda step: peak * schedule["gamma"] ** ((step + warmup) / every),
    }[schedule["name"]]()
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def _update(config: Mapping[str, Any], rate: Callable[[Any], Any]) -> optax.GradientTransformation:
    """Returns the optimizer as optax composes it; rmsprop and lars have the learning rate inside their momentum."""
    decayed = is_on(config["weight_decay"])
    decay = optax.add_decayed_weights(config["weight_decay"], _matrices) if decayed else optax.identity()
    adam = optax.scale_by_adam(b1=config["b1"], b2=config["b2"], eps=config["eps"])
    rms = optax.scale_by_rms(decay=config["b2"], eps=config["eps"])
    trust = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=0.001), _matrices)
    momentum = config["momentum"]
    trace = optax.trace(momentum, nesterov=config["nesterov"]) if is_on(momentum) else optax.identity()
    step = optax.scale_by_learning_rate(rate)
    return {
        "sgd": optax.chain(decay, trace, step),
        "adam": optax.chain(decay, adam, step),
        "adamw": optax.chain(adam, decay, step),
        "rmsprop": optax.chain(decay, rms, step, trace),
        "lars": optax.chain(decay, trust, step, trace),
        "lamb": optax.chain(adam, decay, optax.scale_by_trust_ratio(), step),
    }[config["name"]]


def _only_heads(params: Mapping[str, Any]) -> dict[str, bool]:
    return {half: half == "heads" for half in params}


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, params)
