"""The U-Net of nnU-Net, in 2-D: Isensee et al. 2021, Nature Methods 18, "nnU-Net: a self-configuring method"."""

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

_SLOPE = 0.01
_HE = nn.initializers.variance_scaling(2 / (1 + _SLOPE**2), "fan_in", "normal")
# torch takes the fan of a transposed kernel from its other side.
_HE_TRANSPOSED = nn.initializers.variance_scaling(2 / (1 + _SLOPE**2), "fan_out", "normal")


class Double(nn.Module):
    """Two 3x3 convolutions, each with InstanceNorm and leaky ReLU; the first has the stride."""

    features: int
    strides: int
    types: dict[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = partial(ops.Conv, self.features, (3, 3), padding=1, kernel_init=_HE, **self.types)
        for i, strides in enumerate((self.strides, 1)):
            x = conv(strides=strides, name=f"conv_{i}")(x)
            x = nn.InstanceNorm(epsilon=1e-5, **self.types, name=f"norm_{i}")(x)
            x = nn.leaky_relu(x, _SLOPE)
        return x


class Doubling(nn.Module):
    """Transposed convolution whose 2x2 kernel is its stride: float[B, H, W, C] to float[B, 2H, 2W, features].

    y[2i + a, 2j + b] = x[i, j] K[a, b] + bias: one matrix product, as the windows do not overlap.
    """

    features: int
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", _HE_TRANSPOSED, (2, 2, x.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), self.param_dtype)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        batch, height, width, _ = x.shape
        y = jnp.einsum("bijc,uvcn->biujvn", x, kernel).reshape(batch, 2 * height, 2 * width, self.features)
        return y + bias.reshape(1, 1, 1, -1)


class DecoderStage(nn.Module):
    """The features below at twice their size, concatenated with the encoder's of that size, and two convolutions."""

    features: int
    types: dict[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array, skip: jax.Array) -> jax.Array:
        x = Doubling(self.features, **self.types, name="transpconv")(x)
        return Double(self.features, 1, self.types, name="convs")(jnp.concatenate([x, skip], axis=-1))


class UNet(nn.Module):
    """nnU-Net's plain 2-D U-Net: float[B, H, W, C] to per-pixel logits float[B, H, W, num_classes].

    Stage s of `encoder_0` to `encoder_{stages - 1}` has min(2^s features, max_features) features at 1 / 2^s of the
    resolution; `decoder_0`, the lowest, to `decoder_{stages - 2}`, at full resolution, go back up; `seg_layer` is a 1x1
    convolution. nnU-Net plans the stages by the data; 8 are its plan for patches of 512 px (Methods, "Network topology
    parameters"). InstanceNorm has scale and bias and normalises each image by itself, training or not.
    Raises AuxjaxError where H or W is no multiple of 2^(stages - 1), or less than 2^stages, below which InstanceNorm
    leaves nothing of the last stage.
    """

    num_classes: int = 2
    stages: int = 8
    features: int = 32
    max_features: int = 512
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None  # as every model has it; InstanceNorm needs none

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        self._check(x)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        widths = [min(self.features * 2**s, self.max_features) for s in range(self.stages)]
        skips = []
        for s, features in enumerate(widths):
            x = Double(features, 1 if s == 0 else 2, types, name=f"encoder_{s}")(x)
            skips.append(x)
        for s, (features, skip) in enumerate(zip(widths[-2::-1], skips[-2::-1], strict=True)):
            x = DecoderStage(features, types, name=f"decoder_{s}")(x, skip)
        return ops.Conv(self.num_classes, (1, 1), kernel_init=_HE, **types, name="seg_layer")(x)

    def _check(self, x: jax.Array) -> None:
        if self.stages < 2:
            raise AuxjaxError(f"stages of UNet must be at least 2, not {self.stages}")
        check_image(self, x, smallest=2**self.stages)
        multiple = 2 ** (self.stages - 1)
        if x.shape[1] % multiple or x.shape[2] % multiple:
            raise AuxjaxError(
                f"UNet of {self.stages} stages needs sides that are multiples of {multiple} px, not"
                f" {x.shape[1]} x {x.shape[2]}: pad the images or set fewer stages"
            )
