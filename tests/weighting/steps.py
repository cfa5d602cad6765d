"""Runs a weighting over many steps of given losses and gradients, as a training loop would."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from auxjax.weighting.protocol import Signals, Weighting

Array = np.ndarray[Any, Any]


def losses_of(steps: int, count: int, seed: int = 0) -> Array:
    """Returns [steps, count] positive losses around 1, with tiny and large ones strewn in."""
    rng = np.random.default_rng(seed)
    losses = np.exp(rng.normal(size=(steps, count)))
    strange = rng.random((steps, count)) < 0.1
    return np.where(strange, 10.0 ** rng.uniform(-6, 4, (steps, count)), losses)


def rolled(
    weighting: Weighting, losses: Array, after: Array | None = None, gradients: Array | None = None, bits: int = 64
) -> tuple[Array, Any]:
    """Returns the weights [T, K] and the last state after T steps in one scan; gradients are [T, K, ...]."""
    dtype = f"float{bits}"
    steps, count = losses.shape
    inputs = {"losses": losses, "after": losses if after is None else after}
    inputs["gradients"] = np.zeros((steps, count, 1)) if gradients is None else gradients

    def one_step(state: Any, at: tuple[jax.Array, dict[str, jax.Array]]) -> tuple[Any, jax.Array]:
        index, values = at
        signals = Signals(
            step=index, progress=index / steps, key=jax.random.fold_in(jax.random.key(0), index),
            losses=values["losses"], gradients=tuple(values["gradients"]),
        )  # fmt: skip
        update, state = weighting.update(signals, state)
        if weighting.finish:
            state = weighting.finish(signals._replace(losses_after=values["after"]), state)
        return state, update.weights

    with jax.enable_x64(bits == 64):
        state = weighting.init(tuple(f"loss{k}" for k in range(count)), jnp.zeros(inputs["gradients"].shape[2:], dtype))
        typed = {name: jnp.asarray(value, dtype) for name, value in inputs.items()}
        last, weights = jax.jit(lambda s: jax.lax.scan(one_step, s, (jnp.arange(steps, dtype=jnp.int32), typed)))(state)
    return np.asarray(weights), last
