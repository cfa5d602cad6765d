"""VGG: Simonyan and Zisserman 2014, "Very Deep Convolutional Networks...", arXiv 1409.1556."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.layers import adaptive_avg_pool, check_choice, check_image
from auxjax.models.alexnet import classifier

# Table 1, columns A, B, D and E: 3x3 convolutions in each of the five blocks.
TABLE_1 = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
FEATURES = (64, 128, 256, 512, 512)


class VGGLayer(nn.Module):
    """3x3 convolution, BatchNorm after its bias if asked, ReLU: a tap reads the activated features."""

    features: int
    batch_norm: bool
    dtype: DTypeLike
    param_dtype: DTypeLike
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = ops.Conv(self.features, (3, 3), kernel_init=nn.initializers.he_normal(), **types, name="conv")(x)
        if not self.batch_norm:
            return nn.relu(x)
        bn = ops.BatchNorm(momentum=0.9, epsilon=1e-5, relu=True, axis_name=self.axis_name, **types, name="bn")
        return bn(x, use_running_average=not train)


class VGG(nn.Module):
    """VGG-11, -13, -16 or -19 (`depth`): float[B, H, W, C] of 32 px or more to logits float[B, num_classes].

    Table 1's configurations A, B, D and E; `batch_norm` adds a norm after every convolution, as torchvision's
    `vgg16_bn`, with the biases kept. Layers are conv1_1 to conv5_4 as in the authors' Caffe release, then fc6 to fc8;
    an adaptive 7x7 average pool precedes fc6, which reads it flattened as H, W, C (torchvision: C, H, W).
    """

    num_classes: int = 1000
    depth: int = 16
    batch_norm: bool = False
    dropout_rate: float = 0.5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_choice(self, "depth", TABLE_1)
        check_image(self, x, smallest=32)
        for i, (count, features) in enumerate(zip(TABLE_1[self.depth], FEATURES, strict=True), start=1):
            for j in range(1, count + 1):
                layer = VGGLayer(
                    features, self.batch_norm, self.dtype, self.param_dtype, self.axis_name, name=f"conv{i}_{j}"
                )
                x = layer(x, train=train)
            x = ops.max_pool(x, (2, 2), strides=(2, 2), padding="VALID")
        x = adaptive_avg_pool(x, 7).reshape(x.shape[0], -1)
        return classifier(self, x, {"dtype": self.dtype, "param_dtype": self.param_dtype}, train, dropout_first=False)
