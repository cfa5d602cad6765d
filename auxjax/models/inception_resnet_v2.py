"""Inception-ResNet-v2: Szegedy et al. 2016, "Inception-v4, Inception-ResNet and [...]", arXiv 1602.07261."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.layers import ConvUnit, check_image
from auxjax.models.inception_v3 import STEM, Layer, Tower, tower
from auxjax.models.inception_v4 import Mixed, branches, check_blocks

MIXED_5B: Sequence[Tower] = (
    (Layer("Conv2d_1x1", 96),),
    (Layer("Conv2d_0a_1x1", 48), Layer("Conv2d_0b_5x5", 64, 5)),
    (Layer("Conv2d_0a_1x1", 64), Layer("Conv2d_0b_3x3", 96, 3), Layer("Conv2d_0c_3x3", 96, 3)),
    ("avg", Layer("Conv2d_0b_1x1", 64)),
)
BLOCK35: Sequence[Tower] = (
    (Layer("Conv2d_1x1", 32),),
    (Layer("Conv2d_0a_1x1", 32), Layer("Conv2d_0b_3x3", 32, 3)),
    (Layer("Conv2d_0a_1x1", 32), Layer("Conv2d_0b_3x3", 48, 3), Layer("Conv2d_0c_3x3", 64, 3)),
)
MIXED_6A: Sequence[Tower] = (
    (Layer("Conv2d_1a_3x3", 384, 3, 2, "VALID"),),
    (Layer("Conv2d_0a_1x1", 256), Layer("Conv2d_0b_3x3", 256, 3), Layer("Conv2d_1a_3x3", 384, 3, 2, "VALID")),
    ("max",),
)
BLOCK17: Sequence[Tower] = (
    (Layer("Conv2d_1x1", 192),),
    (Layer("Conv2d_0a_1x1", 128), Layer("Conv2d_0b_1x7", 160, (1, 7)), Layer("Conv2d_0c_7x1", 192, (7, 1))),
)
MIXED_7A: Sequence[Tower] = (
    (Layer("Conv2d_0a_1x1", 256), Layer("Conv2d_1a_3x3", 384, 3, 2, "VALID")),
    (Layer("Conv2d_0a_1x1", 256), Layer("Conv2d_1a_3x3", 288, 3, 2, "VALID")),
    (Layer("Conv2d_0a_1x1", 256), Layer("Conv2d_0b_3x3", 288, 3), Layer("Conv2d_1a_3x3", 320, 3, 2, "VALID")),
    ("max",),
)
BLOCK8: Sequence[Tower] = (
    (Layer("Conv2d_1x1", 192),),
    (Layer("Conv2d_0a_1x1", 192), Layer("Conv2d_0b_1x3", 224, (1, 3)), Layer("Conv2d_0c_3x1", 256, (3, 1))),
)


class Block(nn.Module):
    """x + scale f(x), with ReLU if asked; f is branches and a 1x1 convolution with bias and no norm (section 3.3)."""

    towers: Sequence[Tower]
    scale: float
    unit: Any
    conv: Any
    relu: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = branches(self.towers, self.unit, x, train)
        x = x + self.scale * self.conv(x.shape[-1], (1, 1), name="Conv2d_1x1")(y)
        return nn.relu(x) if self.relu else x


class Repeat(nn.Module):
    """Equal blocks one after the other, `block35_1` on, as a submodule, so that what the last gives is a tap."""

    block: str
    count: int
    towers: Sequence[Tower]
    scale: float
    unit: Any
    conv: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i in range(1, self.count + 1):
            block = Block(self.towers, self.scale, self.unit, self.conv, name=f"{self.block}_{i}")
            x = block(x, train=train)
        return x


class InceptionResNetV2(nn.Module):
    """Inception-ResNet-v2 without its auxiliary classifier: float[B, H, W, C] to logits float[B, num_classes].

    Figure 15 in the form of slim's inception_resnet_v2, which differs: Inception v3's stem and Mixed_5b in place of
    Figure 3, widths of 320, 1088 and 2080, twice the paper's 5, 10 and 5 blocks (the last without scaling and ReLU).
    Residuals are scaled by 0.17, 0.10 and 0.20 (section 3.3: between 0.1 and 0.3). `blocks` counts the scaled ones.
    Endpoints, branches and units have slim's names; the module `PreAuxLogits` is the twenty block17, whose output is
    the endpoint of that name. Images have at least 75 px. Dropout keeps 0.8.
    BatchNorm (epsilon 1e-3) has scale and shift, as torch and timm have it and count it; slim's has no scale. He
    truncated normals, slim's default; LeCun where no ReLU follows.
    Raises AuxjaxError for an input that is not of rank 4 or too small, and where `blocks` are not three.
    """

    num_classes: int = 1000
    blocks: tuple[int, int, int] = (10, 20, 9)
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_image(self, x, smallest=75)
        check_blocks(self)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        unit: Any = partial(ConvUnit, axis_name=self.axis_name, **types)
        conv: Any = partial(ops.Conv, **types)
        many, more, last = self.blocks
        x = tower(STEM, unit, x, train)
        x = Mixed(MIXED_5B, unit, name="Mixed_5b")(x, train=train)
        x = Repeat("block35", many, BLOCK35, 0.17, unit, conv, name="Repeat")(x, train=train)
        x = Mixed(MIXED_6A, unit, name="Mixed_6a")(x, train=train)
        x = Repeat("block17", more, BLOCK17, 0.10, unit, conv, name="PreAuxLogits")(x, train=train)
        x = Mixed(MIXED_7A, unit, name="Mixed_7a")(x, train=train)
        x = Repeat("block8", last, BLOCK8, 0.20, unit, conv, name="Repeat_2")(x, train=train)
        x = Block(BLOCK8, 1.0, unit, conv, relu=False, name="Block8")(x, train=train)
        x = unit(1536, 1, name="Conv2d_7b_1x1")(x, train=train)
        x = nn.Dropout(0.2, name="dropout")(x.mean((1, 2)), deterministic=not train)
        return nn.Dense(self.num_classes, **types, name="logits")(x)
