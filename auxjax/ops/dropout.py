"""Dropout whose rate may be an argument of a compiled program."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


class Dropout(nn.Dropout):
    """`nn.Dropout` whose `rate` may also be a float32 scalar in [0, 1) that a compiled program has as an argument.

    The same bits under the same key. Flax's own module compares the rate with 0, which only a Python number can stand.
    """

    def __call__(self, inputs: jax.Array, deterministic: bool | None = None, rng: jax.Array | None = None) -> jax.Array:
        rate: float | jax.Array = self.rate
        known = not isinstance(rate, jax.Array)
        if nn.merge_param("deterministic", self.deterministic, deterministic) or (known and rate == 0.0):
            return inputs
        if known and rate == 1.0:
            return jnp.zeros_like(inputs)
        keep = 1.0 - rate
        key = self.make_rng(self.rng_collection) if rng is None else rng
        mask = jax.random.bernoulli(key, p=keep, shape=inputs.shape)
        scaled = inputs / jnp.asarray(keep, inputs.dtype).reshape((1,) * inputs.ndim)
        return jnp.where(mask, scaled, jnp.zeros_like(inputs))
