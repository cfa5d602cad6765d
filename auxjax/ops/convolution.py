"""Convolution whose gradients stay fast inside `lax.scan` and under `vmap` over kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.typing import DTypeLike

from auxjax.ops.platform import fast_on_cpu

Pads = tuple[tuple[int, int], ...]
_CANONICAL = ("NHWC", "HWIO", "NHWC")


class Conv(nn.Module):
    """`nn.Conv` of float[B, H, W, C] with two spatial axes: the same parameters, values and gradients.

    On a CPU a 1x1 convolution of stride 1 is a matrix product, and the gradients of the others are convolutions in the
    one layout that XLA has a fast kernel for, also inside a loop (jax-ml/jax#12868).
    """

    features: int
    kernel_size: Sequence[int]
    strides: Sequence[int] | int = 1
    padding: str | int | Sequence[tuple[int, int]] = "SAME"
    kernel_dilation: int = 1
    feature_group_count: int = 1
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = tuple(self.kernel_size)
        shape = (*size, x.shape[-1] // self.feature_group_count, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        strides = (self.strides,) * 2 if isinstance(self.strides, int) else tuple(self.strides)
        y = convolution(x, kernel, strides, self.padding, self.kernel_dilation, self.feature_group_count)
        return y if bias is None else y + bias.reshape(1, 1, 1, -1)


def convolution(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Any, dilation: int = 1, groups: int = 1
) -> jax.Array:
    """Returns the convolution of float[B, H, W, C] with float[h, w, C / groups, N], as lax.conv_general_dilated has it.

    Dilated and grouped ones take the library's form on every platform.
    """
    size = tuple((n - 1) * dilation + 1 for n in kernel.shape[:2])
    if isinstance(padding, int):
        padding = ((padding, padding),) * 2
    pads = lax.padtype_to_pads(x.shape[1:3], size, strides, padding) if isinstance(padding, str) else padding
    pads = tuple((int(low), int(high)) for low, high in pads)
    if not fast_on_cpu() or dilation > 1 or groups > 1:
        return lax.conv_general_dilated(
            x, kernel, strides, pads, rhs_dilation=(dilation, dilation), dimension_numbers=_CANONICAL,
            feature_group_count=groups,
        )  # fmt: skip
    if size == (1, 1) and strides == (1, 1) and pads == ((0, 0), (0, 0)):
        return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))
    return _canonical(strides, pads)(x, kernel)


@functools.lru_cache(maxsize=64)
def _canonical(strides: tuple[int, ...], pads: Pads) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns the convolution of one geometry with both gradients written as plain convolutions."""

    plain = _plain(strides, pads, (1, 1), (1, 1))
    conv = jax.custom_vjp(plain)

    def forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        # Not conv itself, which would refuse the forward mode of a Hessian-vector product.
        return plain(x, kernel), (x, kernel)

    def backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, kernel = saved
        to_x, to_kernel = [], []
        for i, (low, _) in enumerate(pads):
            size, window, reach = x.shape[i + 1], kernel.shape[i], (gradient.shape[i + 1] - 1) * strides[i] + 1
            to_x.append((window - 1 - low, size + low - reach))
            to_kernel.append((low, reach + window - 1 - size - low))
        flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        x_gradient = _plain((1, 1), tuple(to_x), strides, (1, 1))(gradient, flipped)
        # Channels take the batch's place and the batch that of the channels.
        kernel_gradient = _plain((1, 1), tuple(to_kernel), (1, 1), strides)(
            x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
        )
        return x_gradient, kernel_gradient.transpose(1, 2, 0, 3)

    conv.defvjp(forward, backward)
    return conv


@functools.lru_cache(maxsize=256)
def _plain(
    strides: tuple[int, ...], pads: Pads, lhs_dilation: tuple[int, ...], rhs_dilation: tuple[int, ...]
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns one convolution in the canonical layout that, vmapped over kernels, is as many convolutions.

    XLA would make one grouped convolution of it, which a CPU runs several times slower.
    """

    @jax.custom_batching.custom_vmap
    def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, kernel, strides, pads, lhs_dilation=lhs_dilation, rhs_dilation=rhs_dilation, dimension_numbers=_CANONICAL
        )

    @conv.def_vmap
    def rule(count: int, batched: list[bool], x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, bool]:
        if not batched[1]:
            merged = conv(x.reshape(-1, *x.shape[2:]), kernel)
            return merged.reshape(count, -1, *merged.shape[1:]), True
        return jnp.stack([conv(x[i] if batched[0] else x, kernel[i]) for i in range(count)]), True

    return conv
