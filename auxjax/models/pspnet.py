"""PSPNet: Zhao et al. 2017, "Pyramid Scene Parsing Network", arXiv 1612.01105."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.layers import ConvUnit, adaptive_avg_pool, check_choice
from auxjax.models.resnet import ResNetTrunk

BINS = (1, 2, 3, 6)


class PyramidPooling(nn.Module):
    """Means over 1, 4, 9 and 36 regions, each projected to a quarter of the channels and resized, beside the features.

    float[B, H, W, C] to float[B, H, W, 2 C]; section 3.2 and Figure 3.
    """

    unit: dict[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        maps = [x]
        for size in BINS:
            unit = ConvUnit(x.shape[-1] // len(BINS), 1, **self.unit, name=f"bin_{size}")
            pooled = unit(adaptive_avg_pool(x, size), train=train)
            maps.append(ops.resize_bilinear(pooled, x.shape[1:3]))
        return jnp.concatenate(maps, axis=-1)


class PSPNet(nn.Module):
    """PSPNet on a dilated ResNet: float[B, H, W, C] to per-pixel logits float[B, H, W, num_classes].

    A ResNet of stride 8 (`backbone`), pyramid pooling of its layer4 (`ppm`), a 3x3 convolution to 512 features with
    BatchNorm and ReLU, dropout 0.1 and a 1x1 convolution, resized bilinearly to the input.
    Raises AuxjaxError for another depth than 50, 101 or 152: only bottleneck blocks are dilated.
    Deviations: conv1 is one 7x7 convolution, where the authors' code has three of 3x3; maps are resized between pixel
    centres (align_corners=False), as in mmsegmentation. Dropout is that code's, the paper names none.
    """

    num_classes: int = 19
    depth: int = 50
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_choice(self, "depth", (50, 101, 152))
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        common = {**types, "axis_name": self.axis_name}
        unit = {**common, "epsilon": 1e-5}
        features = ResNetTrunk(self.depth, dilated=True, **common, name="backbone")(x, train=train)
        features = PyramidPooling(unit, name="ppm")(features, train=train)
        features = ConvUnit(512, 3, **unit, name="bottleneck")(features, train=train)
        features = nn.Dropout(0.1, name="dropout")(features, deterministic=not train)
        logits = ops.Conv(self.num_classes, (1, 1), **types, name="logits")(features)
        return ops.resize_bilinear(logits, x.shape[1:3])
