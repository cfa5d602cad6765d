"""AlexNet: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", arXiv 1404.5997."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.layers import adaptive_avg_pool, check_image

# Features, kernel, stride and padding of conv1 to conv5.
CONVOLUTIONS = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
_POOLED = ("conv1", "conv2", "conv5")
HIDDEN_FEATURES = 4096  # of fc6 and fc7


class AlexNet(nn.Module):
    """AlexNet as torchvision has it: float[B, H, W, C] of 63 px or more to logits float[B, num_classes].

    One tower, with the widths of the 2014 paper (footnote 1), no local response normalisation and no groups; all differ
    from the network of 2012, section 3. Layers are conv1 to conv5 (before their ReLU), fc6, fc7 and fc8 as in Caffe; an
    adaptive 6x6 average pool precedes fc6, which reads it flattened as H, W, C (torchvision: C, H, W).
    """

    num_classes: int = 1000
    dropout_rate: float = 0.5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_image(self, x, smallest=63)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        he = nn.initializers.he_normal()
        for i, (features, kernel, strides, pad) in enumerate(CONVOLUTIONS, start=1):
            conv = ops.Conv(
                features, (kernel, kernel), strides=strides, padding=((pad, pad), (pad, pad)), kernel_init=he,
                **types, name=f"conv{i}",
            )  # fmt: skip
            x = nn.relu(conv(x))
            if f"conv{i}" in _POOLED:
                x = ops.max_pool(x, (3, 3), strides=(2, 2), padding="VALID")
        x = adaptive_avg_pool(x, 6).reshape(x.shape[0], -1)
        return classifier(self, x, types, train, dropout_first=True)


def classifier(module: Any, x: jax.Array, types: dict[str, Any], train: bool, dropout_first: bool) -> jax.Array:
    """Returns fc6, fc7 and fc8 with dropout of `module.dropout_rate` before (AlexNet) or after (VGG) fc6 and fc7."""
    dense = partial(nn.Dense, HIDDEN_FEATURES, kernel_init=nn.initializers.he_normal(), **types)
    for name in ("fc6", "fc7"):
        dropout = partial(ops.Dropout(module.dropout_rate, name=f"dropout_{name}"), deterministic=not train)
        x = nn.relu(dense(name=name)(dropout(x))) if dropout_first else dropout(nn.relu(dense(name=name)(x)))
    return nn.Dense(module.num_classes, **types, name="fc8")(x)
