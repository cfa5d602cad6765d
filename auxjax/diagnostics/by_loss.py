"""The gradients of one step apart, loss by loss: what the diagnostics of gradients are made of."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from auxjax.gradients import apply, decide, forward, measure, microbatches, psum
from auxjax.held_out import hold_out
from auxjax.pullbacks import Pullbacks, pullbacks, reached
from auxjax.state import Batch, TrainState
from auxjax.step import backward, step_key
from auxjax.taps import list_taps, parse
from auxjax.weighting.protocol import combine


class LossGradients(NamedTuple):
    """A step's K losses apart, main first, each global over the batch and the devices.

    `rows` are the gradients of the losses as they are, without a weight, of the model's parameters (a head's own are
    left out), `total` the gradient that the step takes, under `weights` float32[K]; `reach` says of every array
    whether a loss reaches it, by the structure of the program.
    """

    losses: jax.Array
    weights: jax.Array
    rows: tuple[Any, ...]
    reach: tuple[Any, ...]
    total: Any


class Names(NamedTuple):
    """What the axes of a diagnostic stand for: the model's layers in the order of execution, and the K losses."""

    layers: tuple[str, ...]
    losses: tuple[str, ...]


def loss_gradients(state: TrainState, batch: Batch, axis_name: str | None = None, fold: Any = None) -> LossGradients:
    """Returns the gradients that this step would see on `batch`, loss by loss, from K pullbacks.

    The dropout masks are those of the state's step, or others for each `fold`; microbatches and the examples that a
    weighting holds out are those of the step. Nothing of the state changes.
    """
    program = state.program
    key = step_key(state if fold is None else state.replace(key=jax.random.fold_in(state.key, fold)), axis_name)
    seen = hold_out(batch)[0] if "held_out" in program.weighting.needs else batch
    losses, rows, reach = _rows(state, seen, key, axis_name)
    if program.weighting.needs & {"gramian", "gradients", "held_out"}:
        taken = backward(program)(state, batch, key, axis_name)
        return LossGradients(losses, taken.weights, rows, reach, taken.grads["model"])
    weights, _ = decide(state, losses if program.accumulate == 1 else None)
    return LossGradients(losses, weights, rows, reach, combine(weights, rows))


def pull_losses(
    state: TrainState, statistics: Any, batch: Batch, key: jax.Array, axis_name: str | None, counts: Any = None
) -> Pullbacks:
    """Returns this device's shares of the K losses with a pullback each; the extras are (statistics, counts).

    A loss is divided by its own number of examples in the batch, or by `counts` float32[K].
    """

    def losses_of(params: Any) -> tuple[tuple[jax.Array, ...], Any]:
        outputs, updates = apply(state, params, statistics, batch, key)
        sums, own, (new, _) = measure(state, statistics, batch, outputs, updates)
        total = psum(jnp.stack(own), axis_name) if counts is None else counts
        return tuple(s / jnp.maximum(total[k], 1) for k, s in enumerate(sums)), (new, total)

    return pullbacks(losses_of, state.params)


def pull_rows(passes: Pullbacks, axis_name: str | None) -> tuple[Any, ...]:
    """Returns the K gradients of the model's parameters, summed over the devices."""
    one = jnp.ones(())
    return psum(tuple(passes.pull(k, one)["model"] for k in range(len(passes.values))), axis_name)


def _rows(
    state: TrainState, batch: Batch, key: jax.Array, axis_name: str | None
) -> tuple[jax.Array, tuple[Any, ...], tuple[Any, ...]]:
    pieces = state.program.accumulate
    split = microbatches(batch, pieces)
    first = jax.tree.map(lambda x: x[0], split)
    passes = pull_losses(state, state.statistics, first if pieces > 1 else batch, key, axis_name)
    reach = tuple(tree["model"] for tree in reached(passes))
    if pieces == 1:
        return psum(jnp.stack(passes.values), axis_name), pull_rows(passes, axis_name), reach
    counts = psum(forward(state, state.params, state.statistics, batch, key)[1], axis_name)

    def add(carry: Any, piece_and_index: Any) -> tuple[Any, None]:
        losses, rows, statistics = carry
        piece, index = piece_and_index
        part = pull_losses(state, statistics, piece, jax.random.fold_in(key, index), axis_name, counts)
        more = psum(jnp.stack(part.values), axis_name), pull_rows(part, axis_name)
        return (*jax.tree.map(jnp.add, (losses, rows), more), part.extras[0]), None

    zeros = jax.tree.map(jnp.zeros_like, (counts, (state.params["model"],) * len(passes.values)))
    (losses, rows, _), _ = jax.lax.scan(add, (*zeros, state.statistics), (split, jnp.arange(pieces)))
    return losses, rows, reach


def names_of(state: TrainState, batch: Batch) -> Names:
    """Returns the layers, which are the top-level submodules that have parameters, and the losses of a state."""
    program = state.program
    # One example: layers do not depend on how many there are.
    inputs = tuple(jax.ShapeDtypeStruct((1, *batch[n].shape[1:]), batch[n].dtype) for n in program.inputs)
    layers = _layers(program.attached.model, inputs, frozenset(state.params["model"]))
    return Names(layers, ("main", *program.names))


@functools.lru_cache(maxsize=32)
def _layers(model: nn.Module, inputs: tuple[jax.ShapeDtypeStruct, ...], found: frozenset[str]) -> tuple[str, ...]:
    called = [parse(tap).path[0] for tap in list_taps(model, *inputs) if parse(tap).path]
    rest = sorted(found - set(called), key=_natural)
    return tuple(name for name in dict.fromkeys(called) if name in found) + tuple(rest)


def _natural(name: str) -> tuple[object, ...]:
    stem, _, number = name.rpartition("_")
    return (stem == "", stem, int(number)) if number.isdigit() else (True, name, 0)


def square(tree: Any) -> jax.Array:
    """Returns the squared L2 norm of a tree, a scalar."""
    return inner(tree, tree)


def inner(a: Any, b: Any) -> jax.Array:
    """Returns the inner product of two trees, a scalar, 0 where they have no arrays."""
    return sum((jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)), jnp.zeros(()))


def listed(value: Any) -> Any:
    """Returns arrays as nested lists of numbers for JSON, to seven digits, with None for what is not finite."""
    if isinstance(value, Mapping):
        return {key: listed(v) for key, v in value.items()}
    return _finite(np.asarray(value).tolist())


def _finite(numbers: Any) -> Any:
    if isinstance(numbers, list):
        return [_finite(number) for number in numbers]
    return float(f"{numbers:.7g}") if math.isfinite(numbers) else None
