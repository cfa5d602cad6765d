"""What several published networks are built from: the convolution unit, pools and normalisation of their time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.errors import AuxjaxError, unknown
from auxjax.ops import resize_bilinear as resize_bilinear

Padding = str | tuple[tuple[int, int], tuple[int, int]]


class ConvUnit(nn.Module):
    """Convolution, BatchNorm in place of the bias if asked, and ReLU if asked: what the literature calls one layer.

    `padding` is "SAME", "VALID", ((top, bottom), (left, right)), or "SYMMETRIC": half the kernel on every side, which
    is what torch writes and differs from "SAME" where the stride is not 1.
    """

    features: int
    kernel_size: int | tuple[int, int]
    strides: int = 1
    padding: Padding = "SAME"
    batch_norm: bool = True
    relu: bool = True
    epsilon: float = 1e-3
    momentum: float = 0.9
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        size = (self.kernel_size,) * 2 if isinstance(self.kernel_size, int) else self.kernel_size
        padding = tuple((n // 2, n // 2) for n in size) if self.padding == "SYMMETRIC" else self.padding
        conv = ops.Conv(
            self.features, size, strides=self.strides, padding=padding, use_bias=not self.batch_norm,
            kernel_init=self.kernel_init, **types, name="conv",
        )  # fmt: skip
        x = conv(x)
        if not self.batch_norm:
            return nn.relu(x) if self.relu else x
        bn = ops.BatchNorm(
            momentum=self.momentum, epsilon=self.epsilon, relu=self.relu, axis_name=self.axis_name, **types, name="bn"
        )
        return bn(x, use_running_average=not train)


def ceil_max_pool(x: jax.Array, window: int, strides: int = 2) -> jax.Array:
    """Max pool in torch's ceil mode: the last window starts inside the input and may end outside."""
    high = [max(0, strides * max(0, -(-(n - window) // strides)) + window - n) for n in x.shape[1:3]]
    pads = ((0, high[0]), (0, high[1]))
    return ops.max_pool(x, (window, window), strides=(strides, strides), padding=pads)


def same_avg_pool(x: jax.Array, *, count_padding: bool = False) -> jax.Array:
    """Returns float[B, H, W, C], the means over 3x3 windows of the pixels that there are, as TensorFlow's "SAME".

    With `count_padding` the zeros around the map count, as `torch.nn.functional.avg_pool2d` has it by default.
    """
    y = nn.avg_pool(x, (3, 3), strides=(1, 1), padding=((1, 1), (1, 1)), count_include_pad=count_padding)
    return y.astype(x.dtype)


def adaptive_avg_pool(x: jax.Array, size: int) -> jax.Array:
    """Returns float[B, size, size, C], the means over floor(i H / size) to ceil((i + 1) H / size), as torch.

    Windows overlap where `size` does not divide H, and repeat pixels where H is smaller.
    """
    for axis in (1, 2):
        n = x.shape[axis]
        windows = [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
        x = jnp.stack([lax.slice_in_dim(x, *w, axis=axis).mean(axis) for w in windows], axis)
    return x


def local_response_normalization(
    x: jax.Array, *, k: float = 2.0, n: int = 5, alpha: float = 1e-4, beta: float = 0.75
) -> jax.Array:
    """Returns x_i / (k + alpha sum_j x_j^2)^beta, j over the n channels around i, computed in float32.

    Krizhevsky et al. 2012 (AlexNet), section 3.3, whose alpha multiplies the sum as it stands; torch and
    Caffe divide theirs by n, so that their alpha is n times this one, and have k = 1 by default.
    """
    squares = jnp.square(x.astype(jnp.float32))
    ones = (1,) * (x.ndim - 1)
    total = lax.reduce_window(squares, 0.0, lax.add, (*ones, n), (*ones, 1), "SAME")
    return (x * (k + alpha * total) ** -beta).astype(x.dtype)


def check_image(module: nn.Module, x: jax.Array, smallest: int = 1) -> None:
    """Raises AuxjaxError unless `x` is [B, H, W, C] with H and W of at least `smallest` pixels."""
    name = type(module).__name__
    if x.ndim != 4:
        raise AuxjaxError(f"{name} reads images [B, H, W, C], not an input of {list(x.shape)}")
    if min(x.shape[1:3]) < smallest:
        raise AuxjaxError(f"{name} needs images of at least {smallest} px, not {x.shape[1]} x {x.shape[2]}")


def check_choice(module: nn.Module, field: str, valid: Iterable[Any]) -> None:
    """Raises AuxjaxError, naming the valid ones, unless the module's field is one of `valid`."""
    value = getattr(module, field)
    if value not in (choices := list(valid)):
        raise unknown(f"{field} of {type(module).__name__}", str(value), map(str, choices))
