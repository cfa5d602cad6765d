"""Main's loss on a quarter of the batch that the step does not train on, for the weightings that look ahead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from auxjax.gradients import forward, own_weights, psum
from auxjax.state import Batch, TrainState
from auxjax.trunk import named, unnamed
from auxjax.weighting.protocol import HeldOut

PARTS = 4


def hold_out(batch: Batch) -> tuple[Batch, Batch]:
    """Returns the examples to train on and every fourth, which are held out, each taken across the whole batch."""
    folded = {k: v.reshape(-1, PARTS, *v.shape[1:]) for k, v in batch.items()}
    kept = {k: v[:, : PARTS - 1].reshape(-1, *v.shape[2:]) for k, v in folded.items()}
    return kept, {k: v[:, PARTS - 1] for k, v in folded.items()}


def held_out(
    state: TrainState, names: Sequence[str], batch: Batch, held: Batch, key: jax.Array, axis_name: str | None
) -> HeldOut:
    """Returns main's loss on `held` as functions of the trunk, the arrays of the model called `names`.

    Both run in training mode with the step's own dropout masks and leave the statistics as they are.
    """
    arrays = named(state.params["model"])
    trunk = {name: arrays[name] for name in names}
    program = state.program
    rate = jnp.asarray(1.0 if program.learning_rate is None else program.learning_rate(state.step), jnp.float32)

    def params_of(trunk: Any) -> Any:
        return {**state.params, "model": unnamed(state.params["model"], {**arrays, **trunk})}

    def losses(trunk: Any, batch: Batch) -> jax.Array:
        sums, counts, _ = forward(state, params_of(trunk), state.statistics, batch, key)
        return sums / jnp.maximum(psum(counts, axis_name), 1)

    def gradient(direction: Any) -> tuple[jax.Array, Any]:
        at = trunk if direction is None else jax.tree.map(lambda p, d: p - rate.astype(p.dtype) * d, trunk, direction)
        return psum(jax.value_and_grad(lambda t: losses(t, held)[0])(at), axis_name)

    def hessian(weights: jax.Array, vector: Any) -> Any:
        slope = jax.grad(lambda t: jnp.dot(weights * own_weights(state), losses(t, batch)))
        return psum(jax.jvp(slope, (trunk,), (vector,))[1], axis_name)

    return HeldOut(gradient, hessian, rate)
