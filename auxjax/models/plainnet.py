"""PlainNet: a deep stack of equal layers whose gradients vanish or not as its fields choose."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.errors import AuxjaxError, unknown

KINDS = ("dense", "conv")
ACTIVATIONS = {"sigmoid": nn.sigmoid, "relu": nn.relu, "tanh": nn.tanh}
NORMS = ("none", "batch", "layer")
KERNEL_INITS = {
    "lecun": nn.initializers.lecun_normal(),
    "he": nn.initializers.he_normal(),
    "glorot": nn.initializers.glorot_uniform(),
    # Four times Glorot's deviation: a sigmoid's slope at 0 is 1/4.
    "glorot_sigmoid": nn.initializers.variance_scaling(16.0, "fan_avg", "uniform"),
}


class Layer(nn.Module):
    """Dense or 3x3 convolution, norm, activation; with `residual` the input added where the shapes agree."""

    width: int
    kind: str
    activation: str
    kernel_init: str
    norm: str
    residual: bool
    dtype: DTypeLike
    param_dtype: DTypeLike
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        make: Any = nn.Dense if self.kind == "dense" else partial(ops.Conv, kernel_size=(3, 3))
        y = make(self.width, kernel_init=KERNEL_INITS[self.kernel_init], **types, name="linear")(x)
        if self.norm == "batch":
            bn = ops.BatchNorm(momentum=0.9, epsilon=1e-5, axis_name=self.axis_name, **types, name="norm")
            y = bn(y, use_running_average=not train)
        elif self.norm == "layer":
            y = nn.LayerNorm(**types, name="norm")(y)
        y = ACTIVATIONS[self.activation](y)
        return x + y if self.residual and x.shape == y.shape else y


class PlainNet(nn.Module):
    """`depth` equal layers and a classifier: float[B, ...] or float[B, H, W, C], to float[B, num_classes].

    By default a sigmoid stack with Flax's own initialiser, whose early layers receive next to no gradient:
    what deep supervision is for (Lee et al. 2014, arXiv 1409.5185). Every other activation, kernel_init or
    norm and `residual` is a cure to compare heads with. `layer_i` outputs the activated features.
    Dense layers read the flattened input. Of 3x3 convolutions, a 2x2 max pool follows each (depth // 3)-th
    but the last, and the mean over positions precedes the classifier.
    Raises AuxjaxError for an unknown kind, activation, kernel_init or norm, and a conv input not of rank 4.
    """

    num_classes: int = 10
    depth: int = 8
    width: int = 128
    kind: str = "dense"
    activation: str = "sigmoid"
    kernel_init: str = "lecun"
    norm: str = "none"
    residual: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        self._check(x)
        if self.kind == "dense":
            x = x.reshape(x.shape[0], -1)
        pool_every = max(1, self.depth // 3)
        for i in range(1, self.depth + 1):
            layer = Layer(
                self.width, self.kind, self.activation, self.kernel_init, self.norm, self.residual,
                self.dtype, self.param_dtype, self.axis_name, name=f"layer_{i}",
            )  # fmt: skip
            x = layer(x, train=train)
            if self.kind == "conv" and i % pool_every == 0 and i < self.depth:
                x = ops.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")
        if self.kind == "conv":
            x = x.mean(axis=(1, 2))
        return nn.Dense(self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype, name="logits")(x)

    def _check(self, x: jax.Array) -> None:
        choices = {"kind": KINDS, "activation": ACTIVATIONS, "kernel_init": KERNEL_INITS, "norm": NORMS}
        for field, valid in choices.items():
            if getattr(self, field) not in valid:
                raise unknown(f"{field} of PlainNet", getattr(self, field), valid)
        if self.kind == "conv" and x.ndim != 4:
            raise AuxjaxError(f"PlainNet of kind 'conv' reads [B, H, W, C], not an input of {list(x.shape)}")
