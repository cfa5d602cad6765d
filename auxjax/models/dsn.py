"""The network of Deeply-Supervised Nets for CIFAR: Lee et al. 2014, arXiv 1409.5185, section 3."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.layers import ceil_max_pool, check_image

_GAUSSIAN = nn.initializers.normal(0.05)


class DSN(nn.Module):
    """Network in Network as Deeply-Supervised Nets supervise it: float[B, H, W, C] to logits float[B, num_classes].

    Three blocks of a convolution (5x5, 5x5, 3x3; 192 features) and two 1x1 convolutions, ReLU after each but the last,
    whose means over all pixels are the logits; 3x3 max pools of stride 2 and dropout 0.5 between blocks. Layers are
    those of the authors' Caffe file for CIFAR-10 (conv1, cccp1, ...); companion classifiers read conv1, conv2 and conv3
    before the ReLU. Kernels start from a normal distribution of 0.05. `features` scales all widths.
    The loss is the config's: the authors have `squared_hinge` for main and heads, and on CIFAR-100, where that does not
    converge in their code, cross-entropy.
    """

    num_classes: int = 10
    features: int = 192
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None  # as every model has it; there is no BatchNorm

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_image(self, x)
        conv = partial(ops.Conv, kernel_init=_GAUSSIAN, dtype=self.dtype, param_dtype=self.param_dtype)
        n, classes = self.features, self.num_classes
        # Kernel of the convolution, and the widths of the two 1x1 convolutions after it.
        blocks: list[tuple[int, tuple[int, int]]] = [(5, (n * 5 // 6, n // 2)), (5, (n, n)), (3, (n, classes))]
        for i, (kernel, widths) in enumerate(blocks, start=1):
            x = nn.relu(conv(n, (kernel, kernel), name=f"conv{i}")(x))
            x = nn.relu(conv(widths[0], (1, 1), name=f"cccp{2 * i - 1}")(x))
            x = conv(widths[1], (1, 1), name=f"cccp{2 * i}")(x)
            if i < len(blocks):
                x = ceil_max_pool(nn.relu(x), window=3)
                x = nn.Dropout(0.5, name=f"dropout{i}")(x, deterministic=not train)
        return x.mean((1, 2))
