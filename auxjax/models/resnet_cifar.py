"""The ResNets of section 4.2 of He et al. 2015, arXiv 1512.03385, for CIFAR-10: 6n + 2 layers, three stages."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.errors import AuxjaxError
from auxjax.layers import check_image


class CifarBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut takes every second pixel and pads channels with zeros (option A)."""

    features: int
    strides: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        use = {"use_running_average": not train}
        y = self.conv(self.features, strides=self.strides, padding=((1, 1), (1, 1)), name="conv1")(x)
        y = self.norm(relu=True, name="bn1")(y, **use)
        y = self.norm(name="bn2")(self.conv(self.features, name="conv2")(y), **use)
        x = x[:, :: self.strides, :: self.strides]
        extra = self.features - x.shape[-1]
        return nn.relu(y + jnp.pad(x, ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2))))


class CifarStage(nn.Module):
    """n blocks of one resolution, `block_0` on."""

    blocks: int
    features: int
    strides: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i in range(self.blocks):
            strides = self.strides if i == 0 else 1
            x = CifarBlock(self.features, strides, self.conv, self.norm, name=f"block_{i}")(x, train=train)
        return x


class CifarResNet(nn.Module):
    """ResNet-20, -56, -110 and so on for small images: float[B, H, W, C] to logits float[B, num_classes].

    Section 4.2: 16, 32 and 64 features in stages layer1 to layer3 of n = (depth - 2) / 6 blocks, shortcuts without
    parameters. Raises AuxjaxError for a depth that is not 6n + 2.
    """

    num_classes: int = 10
    depth: int = 20
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.depth < 8 or self.depth % 6 != 2:
            raise AuxjaxError(f"depth of CifarResNet must be 6n + 2, as 20, 56 or 110, not {self.depth}")
        check_image(self, x)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        he = nn.initializers.he_normal()
        conv: Any = partial(ops.Conv, kernel_size=(3, 3), use_bias=False, kernel_init=he, **types)
        norm = partial(ops.BatchNorm, momentum=0.9, epsilon=1e-5, axis_name=self.axis_name, **types)
        x = norm(relu=True, name="bn1")(conv(16, name="conv1")(x), use_running_average=not train)
        for i in range(3):
            stage = CifarStage(self.depth // 6, 16 * 2**i, 1 if i == 0 else 2, conv, norm, name=f"layer{i + 1}")
            x = stage(x, train=train)
        return nn.Dense(self.num_classes, **types, name="fc")(x.mean((1, 2)))
