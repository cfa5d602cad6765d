"""Maps brought to another size: logits by interpolation, labels by picking."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def resize_bilinear(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Returns float[B, *size, C], interpolated in float32 between pixel centres (torch: align_corners=False)."""
    shape = (x.shape[0], *size, x.shape[-1])
    wide = x.astype(jnp.promote_types(jnp.float32, x.dtype))
    return jax.image.resize(wide, shape, "bilinear", antialias=False).astype(x.dtype)


def resize_nearest(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Returns [B, *size, ...] of any dtype, the pixels under the centres of the new ones (torch: "nearest-exact")."""
    for axis, new in enumerate(size, start=1):
        old = x.shape[axis]
        if new != old:
            # floor((i + 1/2) old / new) in integers, which do not round.
            x = x.take(np.arange(1, 2 * new, 2) * old // (2 * new), axis=axis)
    return x
