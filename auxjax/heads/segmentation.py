"""Auxiliary heads that predict a class for every pixel."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.heads.inception import check_map


class FCNHead(nn.Module):
    """The auxiliary segmentation head: float[B, H, W, C] to per-pixel logits float[B, H, W, num_classes].

    3x3 convolution without bias (256 features: a quarter of ResNet's layer3), BatchNorm, ReLU, dropout 0.1
    and 1x1 convolution, as torchvision's `FCNHead`; not resized. PSPNet, arXiv 1612.01105, section 3.3.
    """

    num_classes: int
    features: int = 256
    dropout_rate: float = 0.1
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_map(self, x)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        he = nn.initializers.he_normal()
        x = ops.Conv(self.features, (3, 3), use_bias=False, kernel_init=he, **types, name="conv")(x)
        axis = self.axis_name
        bn = ops.BatchNorm(momentum=0.9, epsilon=1e-5, relu=True, axis_name=axis, **types, name="bn")
        x = bn(x, use_running_average=not train)
        x = ops.Dropout(self.dropout_rate, name="dropout")(x, deterministic=not train)
        return ops.Conv(self.num_classes, (1, 1), **types, name="logits")(x)


class PixelLinear(nn.Module):
    """A 1x1 convolution to logits: float[B, H, W, C] to float[B, H, W, num_classes].

    What nnU-Net puts on every stage of its decoder (Isensee et al. 2021, Nature Methods 18, supplementary note 2).
    """

    num_classes: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_map(self, x)
        return ops.Conv(self.num_classes, (1, 1), dtype=self.dtype, param_dtype=self.param_dtype, name="logits")(x)
