"""Convolution whose gradients stay fast inside `lax.scan` and under `vmap` over kernels."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.typing import DTypeLike

from auxjax.ops.platform import fast_on_cpu

Pads = tuple[tuple[int, int], ...]
_CANONICAL = ("NHWC", "HWIO", "NHWC")
# The window, in pixels, up to which shifted slices were measured to be faster: 7x7.
_LARGEST_DEPTHWISE = 49
# XLA's fast kernel for a CPU is one of 17 features and more, and before JAX 0.12 it is a slow one for three channels.
_FEW_CHANNELS, _FAST_FEATURES = 4, 24
_SLOW_AT_THREE = jax.__version_info__ < (0, 12)
# Window times channels, of a few channels, up to which the kernel's gradient was measured to be faster as one product.
_LARGEST_PRODUCT = 36


class Conv(nn.Module):
    """`nn.Conv` of float[B, H, W, C] with two spatial axes: the same parameters, values and gradients.

    On a CPU a 1x1 convolution of stride 1 is a matrix product, and the gradients of the others are convolutions in the
    one layout that XLA has a fast kernel for, also inside a loop (jax-ml/jax#12868). The convolution of an image is
    padded with zeros to channels and features that there is a fast kernel for; its kernel's gradient may be a product.
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

    Dilated and grouped ones take the library's form on every platform, but for depthwise ones of small windows.
    """
    size = tuple((n - 1) * dilation + 1 for n in kernel.shape[:2])
    if isinstance(padding, int):
        padding = ((padding, padding),) * 2
    pads = lax.padtype_to_pads(x.shape[1:3], size, strides, padding) if isinstance(padding, str) else padding
    pads = tuple((int(low), int(high)) for low, high in pads)
    depthwise = 1 < groups == x.shape[-1] == kernel.shape[-1] and math.prod(kernel.shape[:2]) <= _LARGEST_DEPTHWISE
    if fast_on_cpu() and depthwise:
        return _depthwise(strides, pads, dilation)(x, kernel)
    if not fast_on_cpu() or dilation > 1 or groups > 1:
        return lax.conv_general_dilated(
            x, kernel, strides, pads, rhs_dilation=(dilation, dilation), dimension_numbers=_CANONICAL,
            feature_group_count=groups,
        )  # fmt: skip
    if size == (1, 1) and strides == (1, 1) and pads == ((0, 0), (0, 0)):
        return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))
    return _canonical(strides, pads)(x, kernel)


@functools.lru_cache(maxsize=64)
def _depthwise(strides: tuple[int, ...], pads: Pads, dilation: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns the convolution of one geometry with one channel a group, for which XLA has no fast kernel.

    It and the gradient of x are sums over the window of a shifted array times one weight a channel, which make one
    loop; the gradient of the kernel takes the window's pixels one after the other. Sixteen-bit numbers are added up in
    float32, as by the library.
    """

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _sum_of_shifted(_spread(x, pads), kernel, strides, dilation)

    conv = jax.custom_vjp(plain)

    def forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return plain(x, kernel), (x, kernel)

    def backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, kernel = saved
        reach = [(n - 1) * stride + 1 for n, stride in zip(gradient.shape[1:3], strides, strict=True)]
        to_x = []
        for size, window, (low, _), n in zip(x.shape[1:3], kernel.shape[:2], pads, reach, strict=True):
            to_x.append(((window - 1) * dilation - low, size + low - n))
        flipped = jnp.flip(kernel, (0, 1))
        x_gradient = _sum_of_shifted(_spread(gradient, tuple(to_x), strides), flipped, (1, 1), dilation)
        padded, wide = _spread(x, pads), _wide(x)

        def of_pixel(corner: jax.Array) -> jax.Array:
            part = lax.dynamic_slice(padded, corner, (len(x), *reach, x.shape[-1]))
            product = part[:, :: strides[0], :: strides[1]].astype(wide) * gradient.astype(wide)
            # A product with ones adds up rows faster than a reduction.
            return jnp.ones((1, product.size // x.shape[-1]), wide) @ product.reshape(-1, x.shape[-1])

        corners = dilation * np.array([(0, i, j, 0) for i, j in np.ndindex(*kernel.shape[:2])])
        kernel_gradient = lax.map(of_pixel, jnp.asarray(corners))
        return x_gradient, kernel_gradient.reshape(kernel.shape).astype(kernel.dtype)

    conv.defvjp(forward, backward)
    return conv


def _sum_of_shifted(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], dilation: int) -> jax.Array:
    """Returns the depthwise convolution of x, padded already."""
    rows, columns = (
        (size - (window - 1) * dilation - 1) // stride * stride + 1
        for size, window, stride in zip(x.shape[1:3], kernel.shape[:2], strides, strict=True)
    )
    parts = []
    for i, j in np.ndindex(*kernel.shape[:2]):
        top, left = i * dilation, j * dilation
        part = x[:, top : top + rows : strides[0], left : left + columns : strides[1]]
        parts.append(part.astype(_wide(x)) * kernel[i, j].astype(_wide(x)).reshape(1, 1, 1, -1))
    return functools.reduce(jnp.add, parts).astype(x.dtype)


def _spread(x: jax.Array, pads: Pads, steps: tuple[int, ...] = (1, 1)) -> jax.Array:
    """Returns x with `steps` - 1 zeros between pixels and padded; negative pads crop."""
    spatial = ((low, high, step - 1) for (low, high), step in zip(pads, steps, strict=True))
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *spatial, (0, 0, 0)))


def _wide(x: jax.Array) -> np.dtype[Any]:
    return jnp.promote_types(x.dtype, jnp.float32)


@functools.lru_cache(maxsize=64)
def _canonical(strides: tuple[int, ...], pads: Pads) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns the convolution of one geometry with both gradients in forms that are fast on a CPU."""

    plain = _filled(_plain(strides, pads, (1, 1), (1, 1)))
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
        if kernel.shape[2] <= _FEW_CHANNELS and math.prod(kernel.shape[:3]) <= _LARGEST_PRODUCT:
            return x_gradient, _as_product(_spread(x, pads), gradient, kernel.shape, strides)
        # Channels take the batch's place and the batch that of the channels.
        kernel_gradient = _plain((1, 1), tuple(to_kernel), (1, 1), strides)(
            x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
        )
        return x_gradient, kernel_gradient.transpose(1, 2, 0, 3)

    conv.defvjp(forward, backward)
    return conv


def _as_product(x: jax.Array, gradient: jax.Array, shape: Sequence[int], strides: tuple[int, ...]) -> jax.Array:
    """Returns the gradient of a small kernel as one product of x, padded already, shifted to each of its numbers."""
    down, right = strides
    rows, columns = ((n - 1) * stride + 1 for n, stride in zip(gradient.shape[1:3], strides, strict=True))
    shifted = [x[:, i : i + rows : down, j : j + columns : right, c] for i, j, c in np.ndindex(*shape[:3])]
    stacked = jnp.stack(shifted).reshape(len(shifted), -1)
    return (stacked @ gradient.reshape(-1, gradient.shape[-1])).reshape(shape)


def _filled(conv: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns the convolution; of a few channels to a few features zero-padded to the sizes of XLA's fast kernel.

    Measured for windows of 3x3 to 7x7: two to nine times as fast; with eight channels or more it is no faster.
    """

    def filled(x: jax.Array, kernel: jax.Array) -> jax.Array:
        channels, features = kernel.shape[2:]
        odd = _SLOW_AT_THREE and channels == 3 and features <= 32
        if channels > _FEW_CHANNELS or (features > 16 and not odd):
            return conv(x, kernel)
        more, wide = int(odd), max(_FAST_FEATURES, features)
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, more)))
        kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, more), (0, wide - features)))
        return conv(x, kernel)[..., :features]

    return filled


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
