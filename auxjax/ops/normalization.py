"""BatchNorm, with the ReLU that follows it, as one operation."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from auxjax.ops.platform import fast_on_cpu

Triple = tuple[jax.Array, jax.Array, jax.Array]


class BatchNorm(nn.Module):
    """`nn.BatchNorm` over all axes but the last, followed by ReLU if asked: the same variables, values and gradients.

    The statistics are float32 at least: mean, and the biased variance E[x^2] - E[x]^2, as Flax has them. Over a batch
    that is sharded under `jit` they are global; under `pmap`, `axis_name` makes them so.
    """

    momentum: float = 0.99
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    relu: bool = False
    scale_init: nn.initializers.Initializer = nn.initializers.ones_init()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array, use_running_average: bool) -> jax.Array:
        features = (x.shape[-1],)
        averages = jnp.promote_types(jnp.float32, self.param_dtype)
        mean = self.variable("batch_stats", "mean", lambda: jnp.zeros(features, averages))
        variance = self.variable("batch_stats", "var", lambda: jnp.ones(features, averages))
        scale = self.param("scale", self.scale_init, features, self.param_dtype)
        bias = self.param("bias", self.bias_init, features, self.param_dtype)
        dtype = self.dtype or jnp.result_type(x, scale)
        if use_running_average:
            return _normalize(x, scale, bias, mean.value, variance.value, self.epsilon, self.relu).astype(dtype)
        if fast_on_cpu() and self.axis_name is None:
            y, batch_mean, batch_variance = _fused(self.epsilon, self.relu)(x, scale, bias)
        else:
            axis = None if self.is_initializing() else self.axis_name
            batch_mean, batch_variance = _statistics(x, axis)
            y = _normalize(x, scale, bias, batch_mean, batch_variance, self.epsilon, self.relu)
        if not self.is_initializing():
            mean.value = self.momentum * mean.value + (1 - self.momentum) * lax.stop_gradient(batch_mean)
            variance.value = self.momentum * variance.value + (1 - self.momentum) * lax.stop_gradient(batch_variance)
        return y.astype(dtype)


def _statistics(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    x = x.astype(jnp.promote_types(jnp.float32, x.dtype))
    axes = tuple(range(x.ndim - 1))
    mean, square = x.mean(axes), jnp.square(x).mean(axes)
    if axis_name is not None:
        mean, square = lax.pmean((mean, square), axis_name)
    return mean, jnp.maximum(square - jnp.square(mean), 0.0)


def _normalize(
    x: jax.Array, scale: jax.Array, bias: jax.Array, mean: jax.Array, variance: jax.Array, epsilon: float, relu: bool
) -> jax.Array:
    wide = (1,) * (x.ndim - 1) + (-1,)
    factor = (scale * lax.rsqrt(variance + epsilon)).reshape(wide)
    y = (x - mean.reshape(wide)) * factor + bias.reshape(wide)
    return nn.relu(y) if relu else y


@functools.lru_cache(maxsize=16)
def _fused(epsilon: float, relu: bool) -> Callable[..., Triple]:
    """Returns (x, scale, bias) -> (y, mean, variance), whose gradient is two column sums and one pass over x.

    With g the gradient at the norm's output, n the count and h the normalised input:
    dx = factor (g - (sum g + h sum(g h)) / n). Mean and variance are for the averages and carry no gradient.
    """

    def plain(x: jax.Array, scale: jax.Array, bias: jax.Array) -> Triple:
        mean, variance = _statistics(x, None)
        y = _normalize(x, scale, bias, mean, variance, epsilon, relu).astype(x.dtype)
        return y, mean, variance

    def forward(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[Triple, tuple[jax.Array, ...]]:
        y, mean, variance = plain(x, scale, bias)
        return (y, mean, variance), (x, y, scale, bias, mean, variance)

    def backward(saved: tuple[jax.Array, ...], gradients: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        x, y, scale, bias, mean, variance = saved
        axes, wide = tuple(range(x.ndim - 1)), (1,) * (x.ndim - 1) + (-1,)
        gradient = gradients[0].astype(mean.dtype)
        if relu:
            gradient = jnp.where(y > 0, gradient, 0)
        inverse = lax.rsqrt(variance + epsilon)
        normalised = (x.astype(mean.dtype) - mean.reshape(wide)) * inverse.reshape(wide)
        bias_gradient, scale_gradient = gradient.sum(axes), (gradient * normalised).sum(axes)
        count = x.size // x.shape[-1]
        correction = (bias_gradient.reshape(wide) + normalised * scale_gradient.reshape(wide)) / count
        x_gradient = (scale * inverse).reshape(wide) * (gradient - correction)
        return x_gradient.astype(x.dtype), scale_gradient.astype(scale.dtype), bias_gradient.astype(bias.dtype)

    norm = jax.custom_vjp(plain)
    norm.defvjp(forward, backward)
    return norm
