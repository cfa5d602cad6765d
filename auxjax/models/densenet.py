"""DenseNet: Huang et al. 2017, "Densely Connected Convolutional Networks", arXiv 1608.06993."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.layers import check_choice, check_image

# Table 1, growth rate 32: layers of the four dense blocks.
TABLE_1 = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, 1x1 convolution to 4k features; again to k by 3x3; concatenated to the input (section 3)."""

    growth_rate: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        use = {"use_running_average": not train}
        y = self.conv(4 * self.growth_rate, (1, 1), name="conv1")(self.norm(name="norm1")(x, **use))
        y = self.conv(self.growth_rate, (3, 3), name="conv2")(self.norm(name="norm2")(y, **use))
        return jnp.concatenate([x, y], axis=-1)


class DenseBlock(nn.Module):
    """Dense layers of one resolution, `denselayer1` on."""

    layers: int
    growth_rate: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i in range(1, self.layers + 1):
            x = DenseLayer(self.growth_rate, self.conv, self.norm, name=f"denselayer{i}")(x, train=train)
        return x


class Transition(nn.Module):
    """BatchNorm, ReLU, a 1x1 convolution to half the features, and a 2x2 average pool."""

    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = self.norm(name="norm")(x, use_running_average=not train)
        x = self.conv(x.shape[-1] // 2, (1, 1), name="conv")(x)
        pooled: jax.Array = nn.avg_pool(x, (2, 2), strides=(2, 2), padding="VALID")
        return pooled


class DenseNet(nn.Module):
    """DenseNet-121, -169 or -201 (`depth`): float[B, H, W, C] of 32 px or more to logits float[B, num_classes].

    Table 1 with growth rate 32 and compression 1/2, named as torchvision: denseblock1, transition1 and so on.
    """

    num_classes: int = 1000
    depth: int = 121
    growth_rate: int = 32
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_choice(self, "depth", TABLE_1)
        check_image(self, x, smallest=32)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv: Any = partial(ops.Conv, use_bias=False, kernel_init=nn.initializers.he_normal(), **types)
        norm = partial(
            ops.BatchNorm, momentum=0.9, epsilon=1e-5, relu=True, axis_name=self.axis_name, **types
        )  # fmt: skip
        x = conv(2 * self.growth_rate, (7, 7), strides=2, padding=((3, 3), (3, 3)), name="conv0")(x)
        x = norm(name="norm0")(x, use_running_average=not train)
        x = ops.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for i, layers in enumerate(TABLE_1[self.depth], start=1):
            x = DenseBlock(layers, self.growth_rate, conv, norm, name=f"denseblock{i}")(x, train=train)
            if i < 4:
                x = Transition(conv, norm, name=f"transition{i}")(x, train=train)
        x = norm(name="norm5")(x, use_running_average=not train).mean((1, 2))
        return nn.Dense(self.num_classes, **types, name="classifier")(x)
