"""Weights of any method brought to a common scale, so that methods compare at one effective step size."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from auxjax.errors import unknown
from auxjax.weighting.compose import Wrapped, each, wrapping
from auxjax.weighting.protocol import Signals, Update, Weighting

CONVENTIONS = ("native", "main", "sum_one", "sum_k")


def normalized(weighting: Weighting, convention: str) -> Weighting:
    """Returns the weighting with its weights and its direction divided by one positive number.

    "native": 1. "main": max(w_0, A / (10 K)), A = sum_k |w_k|: main's weight is 1, and less only where the method gives
    main under a tenth of the mean weight; no weight exceeds 10 K. "sum_one": max(sum_k w_k, A / 10): weights without a
    sign sum to 1. "sum_k": the same over K. Where that is not positive (all weights zero) nothing changes. The state
    holds the weighting's and its native weights. Raises AuxjaxError for another convention.
    """
    if convention not in CONVENTIONS:
        raise unknown("convention of weights", convention, CONVENTIONS)

    def update(signals: Signals, state: Wrapped) -> tuple[Update, Wrapped]:
        decided, inner = weighting.update(signals, state.inner)
        native = each(decided.weights, state.weights)
        divisor = _divisor(native, convention)
        direction = jax.tree.map(lambda d: d / divisor.astype(d.dtype), decided.direction)
        new = Wrapped(inner, native.astype(state.weights.dtype), jnp.zeros_like(state.age))
        return Update(native / divisor, direction), new

    return wrapping(weighting, update)


def _divisor(weights: jax.Array, convention: str) -> jax.Array:
    magnitude, size = jnp.sum(jnp.abs(weights)), len(weights)
    total = jnp.maximum(jnp.sum(weights), magnitude / 10)
    main = jnp.maximum(weights[0], magnitude / (10 * size))
    divisor = {"native": jnp.ones_like(main), "main": main, "sum_one": total, "sum_k": total / size}[convention]
    return jnp.where(divisor > jnp.finfo(weights.dtype).tiny, divisor, 1.0)
