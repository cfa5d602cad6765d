"""BN-Inception (Inception v2): Ioffe and Szegedy 2015, "Batch Normalization", arXiv 1502.03167, Figure 5."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.layers import ConvUnit, check_image, same_avg_pool


class Row(NamedTuple):
    """A row of Figure 5, in its order; a module without a 1x1 tower has stride 2 and passes its pool through."""

    ch1x1: int
    reduce3x3: int
    ch3x3: int
    reduce_double3x3: int
    double3x3: int
    pool: str
    projection: int


FIGURE_5 = {
    "inception_3a": Row(64, 64, 64, 64, 96, "avg", 32),
    "inception_3b": Row(64, 64, 96, 64, 96, "avg", 64),
    "inception_3c": Row(0, 128, 160, 64, 96, "max", 0),
    "inception_4a": Row(224, 64, 96, 96, 128, "avg", 128),
    "inception_4b": Row(192, 96, 128, 96, 128, "avg", 128),
    "inception_4c": Row(160, 128, 160, 128, 160, "avg", 96),
    "inception_4d": Row(96, 128, 192, 160, 192, "avg", 96),
    "inception_4e": Row(0, 128, 192, 192, 256, "max", 0),
    "inception_5a": Row(352, 192, 320, 160, 224, "avg", 128),
    "inception_5b": Row(352, 192, 320, 192, 224, "max", 128),
}


class SeparableUnit(nn.Module):
    """A 7x7 convolution of stride 2 in two steps: 8 filters on each channel, then a 1x1 unit over all of them."""

    features: int
    unit: Any
    conv: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        depthwise = self.conv(8 * channels, (7, 7), strides=2, feature_group_count=channels, name="depthwise")
        return self.unit(self.features, 1, name="pointwise")(depthwise(x), train=train)


class Inception(nn.Module):
    """Towers side by side, concatenated: 1x1, 3x3, double 3x3 and a pool; with stride 2 no 1x1 and no projection."""

    row: Row
    unit: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        row, unit = self.row, self.unit
        strides = 1 if row.ch1x1 else 2
        towers = [unit(row.ch1x1, 1, name="branch_1x1")(x, train=train)] if row.ch1x1 else []
        y = unit(row.reduce3x3, 1, name="branch_3x3_reduce")(x, train=train)
        towers.append(unit(row.ch3x3, 3, strides, name="branch_3x3")(y, train=train))
        y = unit(row.reduce_double3x3, 1, name="branch_double_3x3_reduce")(x, train=train)
        y = unit(row.double3x3, 3, name="branch_double_3x3_1")(y, train=train)
        towers.append(unit(row.double3x3, 3, strides, name="branch_double_3x3_2")(y, train=train))
        y = same_avg_pool(x) if row.pool == "avg" else _max_pool(x, strides)
        towers.append(unit(row.projection, 1, name="branch_pool_proj")(y, train=train) if row.projection else y)
        return jnp.concatenate(towers, axis=-1)


class BNInception(nn.Module):
    """BN-Inception: float[B, H, W, C] of any size to logits float[B, num_classes].

    Figure 5, with the separable conv1 of its text (depth multiplier 8) and, after section 4.2.1, without dropout and
    local response normalization. Neither the paper nor slim's inception_v2 has an auxiliary classifier.
    Convolutions have no bias, BatchNorm (epsilon 1e-3, slim's) has scale and shift. The paper names no initialiser:
    He where a ReLU follows, LeCun elsewhere. Raises AuxjaxError for an input that is not of rank 4.
    """

    num_classes: int = 1000
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_image(self, x)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        unit: Any = partial(ConvUnit, axis_name=self.axis_name, **types)
        conv: Any = partial(ops.Conv, use_bias=False, **types)
        x = _max_pool(SeparableUnit(64, unit, conv, name="conv1")(x, train=train), strides=2)
        x = unit(64, 1, name="conv2_reduce")(x, train=train)
        x = _max_pool(unit(192, 3, name="conv2")(x, train=train), strides=2)
        for name, row in FIGURE_5.items():
            x = Inception(row, unit, name=name)(x, train=train)
        return nn.Dense(self.num_classes, **types, name="logits")(x.mean((1, 2)))


def _max_pool(x: jax.Array, strides: int) -> jax.Array:
    return ops.max_pool(x, (3, 3), strides=(strides, strides), padding="SAME")
