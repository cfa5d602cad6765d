"""Heads: auxiliary modules that read a tap of a model, the published ones among them, and what they cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import freeze
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.errors import AuxjaxError, unknown


@dataclasses.dataclass(frozen=True)
class Head:
    """An auxiliary head: where it reads, its module, and its own loss, target, mask and weight.

    A mapping makes `weight` a schedule (`auxjax.weighting.static`) and switches `stop_gradient` at a step:
    `{"from_steps": n}` or `{"until_steps": n}`. Raises AuxjaxError for any other form of `stop_gradient`.
    """

    at: str
    module: nn.Module
    loss: str | Callable[..., jax.Array] = "softmax_cross_entropy"
    target: str = "label"
    mask: str = "mask"
    weight: float | Mapping[str, Any] = 0.3
    stop_gradient: bool | Mapping[str, int] = False
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for field in ("weight", "stop_gradient"):  # hashable, as a static part of a compiled program has to be
            value = getattr(self, field)
            object.__setattr__(self, field, freeze(dict(value)) if isinstance(value, Mapping) else value)
        stop = self.stop_gradient
        scheduled = isinstance(stop, Mapping) and list(stop) in (["from_steps"], ["until_steps"])
        if not (scheduled or isinstance(stop, bool)):
            expected = "a bool, {'from_steps': n} or {'until_steps': n}"
            raise AuxjaxError(f"stop_gradient of the head at {self.at!r} must be {expected}, not {stop!r}")


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
        _check_is_map(self, x)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        published = nn.initializers.truncated_normal(0.01)
        hidden = published if self.batch_norm else nn.initializers.he_normal()
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
        x = nn.Dropout(self.dropout_rate, name="dropout")(x, deterministic=not train)
        output = published if self.batch_norm else nn.initializers.lecun_normal()
        return nn.Dense(self.num_classes, kernel_init=output, **types, name="logits")(x)


class InceptionV1TorchvisionHead(InceptionV1Head):
    """The auxiliary classifier of torchvision's `GoogLeNet`: BatchNorm of epsilon 1e-3, adaptive 4x4 pool."""

    batch_norm: bool = True
    pool: str = "adaptive"


class LinearProbe(nn.Module):
    """A linear classifier on the mean over all positions: float[B, ..., C] to float[B, num_classes]."""

    num_classes: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = _mean_over_positions(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype, name="logits")(x)


class MLPHead(nn.Module):
    """ReLU layers and a classifier on the mean over positions: float[B, ..., C] to float[B, num_classes]."""

    num_classes: int
    features: tuple[int, ...] = (128,)
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = _mean_over_positions(x)
        for i, features in enumerate(self.features, start=1):
            dense = nn.Dense(features, kernel_init=nn.initializers.he_normal(), **types, name=f"dense_{i}")
            x = nn.relu(dense(x))
        return nn.Dense(self.num_classes, **types, name="logits")(x)


class FCNHead(nn.Module):
    """The auxiliary segmentation head: float[B, H, W, C] to per-pixel logits float[B, H, W, num_classes].

    3x3 convolution without bias (256 features: a quarter of ResNet's layer3), BatchNorm, ReLU, dropout 0.1
    and 1x1 convolution, as torchvision's `FCNHead`; not resized. PSPNet, arXiv 1612.01105, section 3.3.
    """

    num_classes: int
    features: int = 256
    dropout_rate: float = 0.1
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        _check_is_map(self, x)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        he = nn.initializers.he_normal()
        x = ops.Conv(self.features, (3, 3), use_bias=False, kernel_init=he, **types, name="conv")(x)
        axis = self.axis_name
        bn = ops.BatchNorm(momentum=0.9, epsilon=1e-5, relu=True, axis_name=axis, **types, name="bn")
        x = bn(x, use_running_average=not train)
        x = nn.Dropout(self.dropout_rate, name="dropout")(x, deterministic=not train)
        return ops.Conv(self.num_classes, (1, 1), **types, name="logits")(x)


HEADS: dict[str, type[nn.Module]] = {
    "inception_v1": InceptionV1Head,
    "inception_v1_torchvision": InceptionV1TorchvisionHead,
    "linear": LinearProbe,
    "mlp": MLPHead,
    "fcn": FCNHead,
}

PRESETS: dict[str, type[nn.Module]] = {
    "googlenet": InceptionV1Head,
    "googlenet_torchvision": InceptionV1TorchvisionHead,
}


def presets(name: str, num_classes: int, dtype: DTypeLike = jnp.float32) -> dict[str, Head]:
    """Returns the published heads of a network by name; raises AuxjaxError for an unknown preset.

    GoogLeNet has two, after inception 4a and 4d, with weight 0.3 each (section 5; torchvision names none).
    """
    if name not in PRESETS:
        raise unknown("preset of heads", name, PRESETS)
    module = PRESETS[name](num_classes=num_classes, dtype=dtype)
    return {"aux1": Head("inception_4a", module), "aux2": Head("inception_4d", module)}


def cost(module: nn.Module, *input_specs: jax.ShapeDtypeStruct, train: bool = False) -> dict[str, float]:
    """Returns `{"params": count, "flops": of one forward pass}` of a head or a model; nothing is run.

    FLOPs are XLA's estimate for the lowered, uncompiled program at that batch size; a multiply-add is two.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))

    def init(key: jax.Array, *inputs: jax.Array) -> Any:
        return module.init({"params": key, "dropout": key}, *inputs, train=train)

    def forward(variables: Any, key: jax.Array, *inputs: jax.Array) -> Any:
        return module.apply(variables, *inputs, train=train, rngs={"dropout": key}, mutable=["batch_stats"])

    variables = jax.eval_shape(init, key, *input_specs)
    analysis: Any = jax.jit(forward).lower(variables, key, *input_specs).cost_analysis()
    params = sum(leaf.size for leaf in jax.tree.leaves(variables.get("params", {})))
    return {"params": params, "flops": float(analysis.get("flops", 0.0))}


def adaptive_avg_pool(x: jax.Array, size: int) -> jax.Array:
    """Returns float[B, size, size, C], the means over floor(i H / size) to ceil((i + 1) H / size), as torch.

    Windows overlap where `size` does not divide H, and repeat pixels where H is smaller.
    """
    for axis in (1, 2):
        n = x.shape[axis]
        windows = [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
        x = jnp.stack([jax.lax.slice_in_dim(x, *w, axis=axis).mean(axis) for w in windows], axis)
    return x


def _pool(x: jax.Array, pool: str) -> jax.Array:
    if pool == "adaptive":
        return adaptive_avg_pool(x, 4)
    if pool != "avg":
        raise unknown("pool", pool, ("avg", "adaptive"))
    window = (min(5, x.shape[1]), min(5, x.shape[2]))
    pooled: jax.Array = nn.avg_pool(x, window, strides=(3, 3), padding="VALID")
    return pooled


def _mean_over_positions(x: jax.Array) -> jax.Array:
    return x.mean(axis=tuple(range(1, x.ndim - 1)))


def _check_is_map(module: nn.Module, x: jax.Array) -> None:
    if x.ndim != 4:
        shape = list(x.shape)
        name = type(module).__name__
        raise AuxjaxError(f"{name} reads [B, H, W, C], not {shape}; heads 'linear' and 'mlp' read any rank")
