"""The auxiliary classifiers of the Inception family and of the searched cells that took them over."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.errors import AuxjaxError, unknown
from auxjax.layers import ConvUnit, adaptive_avg_pool

_PUBLISHED = nn.initializers.truncated_normal(0.01)


class InceptionV1Head(nn.Module):
    """GoogLeNet's auxiliary classifier: average pool, 1x1 convolution, dense layer, dropout, classifier.

    `x` is float[B, H, W, C] of any size, the logits float[B, num_classes]; another rank raises AuxjaxError.
    `pool="avg"` is the paper's 5x5 window with stride 3 (14 px to 4 px); below 5 px the window shrinks to the
    input, as slim's `_reduced_kernel_size_for_small_input` does, and gives one output at any stride.
    `pool="adaptive"` is torchvision's 4x4. The map is flattened as H, W, C (torchvision: C, H, W).
    The paper names no initialiser: He where a ReLU follows, LeCun for the logits; with `batch_norm` it is
    torchvision's truncated normal of 0.01 throughout. Szegedy et al. 2014, arXiv 1409.4842, section 5.
    """

    num_classes: int
    batch_norm: bool = False
    pool: str = "avg"
    dropout_rate: float = 0.7
    conv_features: int = 128
    dense_features: int = 1024
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_map(self, x)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        hidden = _PUBLISHED if self.batch_norm else nn.initializers.he_normal()
        use_bias = not self.batch_norm
        features = self.conv_features
        conv = ops.Conv(features, (1, 1), use_bias=use_bias, kernel_init=hidden, **types, name="conv")
        x = conv(_pool(x, self.pool))
        if self.batch_norm:
            axis = self.axis_name
            bn = ops.BatchNorm(momentum=0.9, epsilon=1e-3, relu=True, axis_name=axis, **types, name="bn")
            x = bn(x, use_running_average=not train)
        x = nn.relu(x).reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(self.dense_features, kernel_init=hidden, **types, name="dense")(x))
        x = ops.Dropout(self.dropout_rate, name="dropout")(x, deterministic=not train)
        output = _PUBLISHED if self.batch_norm else nn.initializers.lecun_normal()
        return nn.Dense(self.num_classes, kernel_init=output, **types, name="logits")(x)


class InceptionV1TorchvisionHead(InceptionV1Head):
    """The auxiliary classifier of torchvision's `GoogLeNet`: BatchNorm of epsilon 1e-3, adaptive 4x4 pool."""

    batch_norm: bool = True
    pool: str = "adaptive"


class InceptionV3Head(nn.Module):
    """Inception v3's auxiliary classifier: average pool, 1x1 and 5x5 convolution with BatchNorm, classifier.

    `x` is float[B, H, W, C] of any size, the logits float[B, num_classes]; another rank raises AuxjaxError. The pool is
    5x5 with stride 3 (17 px to 5 px), the second convolution "VALID" with 768 features, and both windows shrink to a
    smaller map as slim's `_reduced_kernel_size_for_small_input` has it; what is left of a larger one is averaged, as in
    torchvision. Truncated normals of 0.1, 0.01 and 0.001. Szegedy et al. 2015, arXiv 1512.00567, section 4 and
    Figure 8; sizes from tf-slim's inception_v3. The fields are where its heirs differ.
    """

    num_classes: int
    relu: bool = False
    strides: int = 3
    kernel_size: int = 5
    last_batch_norm: bool = True
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_map(self, x)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.relu:
            x = nn.relu(x)
        x = nn.avg_pool(x, _at_most(x, 5), strides=(self.strides, self.strides), padding="VALID")
        init = nn.initializers.truncated_normal
        unit: Any = partial(ConvUnit, axis_name=self.axis_name, **types)
        x = unit(128, 1, kernel_init=init(0.1), name="conv0")(x, train=train)
        kernel = _at_most(x, self.kernel_size)
        if self.last_batch_norm:
            x = unit(768, kernel, padding="VALID", kernel_init=init(0.01), name="conv1")(x, train=train)
        else:
            conv = ops.Conv(768, kernel, padding="VALID", use_bias=False, kernel_init=init(0.01), **types, name="conv1")
            x = nn.relu(conv(x))
        return nn.Dense(self.num_classes, kernel_init=init(0.001), **types, name="logits")(x.mean((1, 2)))


class NASNetHead(InceptionV3Head):
    """The auxiliary classifier of NASNet and PNASNet: ReLU, then Inception v3's.

    Zoph et al. 2018, arXiv 1707.07012, appendix A.7; sizes from slim's `_build_aux_head`, whose second convolution
    covers the whole pooled map. Here the window stops at 6 px, which is that of NASNet-A large at its 331 px; the
    smaller networks' maps are 4 px.
    """

    relu: bool = True
    kernel_size: int = 6


class DARTSCifarHead(InceptionV3Head):
    """DARTS's auxiliary classifier for CIFAR, on 8x8 maps: ReLU, pool 5x5/3, 1x1 and 2x2 convolution, classifier.

    Liu et al. 2019, arXiv 1806.09055, appendix A.2.3; sizes from the authors' `AuxiliaryHeadCIFAR`.
    """

    relu: bool = True
    kernel_size: int = 2


class DARTSImageNetHead(DARTSCifarHead):
    """DARTS's auxiliary classifier for ImageNet, on 7x7 maps: stride 2, and no norm after the 2x2 convolution.

    Sizes from the authors' `AuxiliaryHeadImageNet`, which leaves that norm out "for consistency with the experiments".
    """

    strides: int = 2
    last_batch_norm: bool = False


def check_map(module: nn.Module, x: jax.Array) -> None:
    """Raises AuxjaxError unless a head that reads feature maps gets one."""
    if x.ndim != 4:
        name = type(module).__name__
        raise AuxjaxError(f"{name} reads [B, H, W, C], not {list(x.shape)}; heads 'linear' and 'mlp' read any rank")


def _pool(x: jax.Array, pool: str) -> jax.Array:
    if pool == "adaptive":
        return adaptive_avg_pool(x, 4)
    if pool != "avg":
        raise unknown("pool", pool, ("avg", "adaptive"))
    pooled: jax.Array = nn.avg_pool(x, _at_most(x, 5), strides=(3, 3), padding="VALID")
    return pooled


def _at_most(x: jax.Array, window: int) -> tuple[int, int]:
    return min(window, x.shape[1]), min(window, x.shape[2])
