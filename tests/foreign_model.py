"""A model as a stranger writes it: auto-numbered submodules, remat blocks, scanned layers, a shared submodule, dropout.

It has the shape of Flax's ImageNet example (a stem, bottleneck blocks with BatchNorm made by partials, a classifier)
and knows nothing of this project.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class BottleneckBlock(nn.Module):
    filters: int
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        residual = x
        y = nn.relu(self.norm()(nn.Conv(self.filters, (1, 1), use_bias=False)(x)))
        y = nn.relu(self.norm()(nn.Conv(self.filters, (3, 3), use_bias=False)(y)))
        y = self.norm(scale_init=nn.initializers.zeros_init())(nn.Conv(self.filters * 4, (1, 1), use_bias=False)(y))
        if residual.shape != y.shape:
            residual = self.norm()(nn.Conv(self.filters * 4, (1, 1), use_bias=False)(residual))
        return nn.relu(residual + y)


class MixerLayer(nn.Module):
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, dict[str, jax.Array]]:
        y = nn.Dense(x.shape[-1])(nn.LayerNorm()(x))
        x = x + nn.Dropout(0.2)(nn.tanh(y), deterministic=self.deterministic)
        return x, {"norm": jnp.abs(x).mean(-1)}


class Neck(nn.Module):
    def setup(self) -> None:
        self.dense = nn.Dense(8)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return self.reduce(x), {"wide": x, "narrow": self.reduce(x)}

    def reduce(self, x: jax.Array) -> jax.Array:
        return self.dense(x)


class StrangersNet(nn.Module):
    num_classes: int = 5
    hide_scan: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        x = nn.relu(norm(name="bn_init")(nn.Conv(8, (3, 3), strides=2, use_bias=False, name="conv_init")(x)))
        x = nn.remat(BottleneckBlock)(4, norm)(x)
        x = nn.jit(BottleneckBlock)(4, norm)(x)
        x = x.mean((1, 2))
        shared = nn.Dense(16, name="shared")
        x = shared(nn.Dropout(0.5)(nn.relu(shared(x)), deterministic=not train))
        axes: dict[str, int] = {"params": 0} if self.hide_scan else {"params": 0, "intermediates": 0}
        layers = nn.scan(
            nn.remat(MixerLayer, prevent_cse=False), variable_axes=axes,  # type: ignore[arg-type]
            split_rngs={"params": True, "dropout": True}, length=3,
        )  # fmt: skip
        x, _ = layers(deterministic=not train, name="layers")(x, None)
        x, _ = Neck(name="neck")(x)
        x = nn.Dropout(0.5)(x, deterministic=not train)
        return nn.Dense(self.num_classes)(x)

    def features(self, x: jax.Array) -> jax.Array:
        return self(x, train=False)
