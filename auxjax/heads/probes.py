"""Small classifiers for features of any rank."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.heads.inception import check_map


class LinearProbe(nn.Module):
    """A linear classifier on the mean over all positions: float[B, ..., C] to float[B, num_classes]."""

    num_classes: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = _mean_over_positions(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype, name="logits")(x)


class MLPHead(nn.Module):
    """ReLU layers and a classifier on the mean over positions: float[B, ..., C] to float[B, num_classes]."""

    num_classes: int
    features: tuple[int, ...] = (128,)
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = _mean_over_positions(x)
        for i, features in enumerate(self.features, start=1):
            dense = nn.Dense(features, kernel_init=nn.initializers.he_normal(), **types, name=f"dense_{i}")
            x = nn.relu(dense(x))
        return nn.Dense(self.num_classes, **types, name="logits")(x)


class FlatLinear(nn.Module):
    """A linear classifier on all features of a map, flattened: float[B, ...] to float[B, num_classes].

    The companion classifier that Deeply-Supervised Nets put on each hidden layer (Lee et al. 2014, arXiv 1409.5185,
    section 2.2), a linear support vector machine where the loss is `squared_hinge`.
    """

    num_classes: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        return nn.Dense(self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype, name="logits")(x)


class SDNHead(nn.Module):
    """The internal classifier of Shallow-Deep Networks: float[B, H, W, C] to float[B, num_classes].

    a max(x) + (1 - a) mean(x) over windows of H // 4 x W // 4, a learned from a uniform start in [0, 1), and one dense
    layer on the pixels left, 16 at 32 px; below 8 px windows are of one pixel. Kaya et al. 2019, arXiv 1810.07052,
    section 4; windows, and an a for each classifier, as in the authors' code. Another rank than 4 raises AuxjaxError.
    """

    num_classes: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_map(self, x)
        share = self.param("alpha", nn.initializers.uniform(1.0), (1,), self.param_dtype).astype(self.dtype)
        window = tuple(max(1, n // 4) for n in x.shape[1:3])
        largest = ops.max_pool(x, window, strides=window, padding="VALID")
        mean = nn.avg_pool(x, window, strides=window, padding="VALID")
        x = (share.reshape(1, 1, 1, 1) * largest + (1 - share).reshape(1, 1, 1, 1) * mean).reshape(x.shape[0], -1)
        return nn.Dense(self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype, name="logits")(x)


def _mean_over_positions(x: jax.Array) -> jax.Array:
    return x.mean(axis=tuple(range(1, x.ndim - 1)))
