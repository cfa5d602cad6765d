"""The small network, heads and batches that the tests of steps, layouts and checkpoints share."""

from __future__ import annotations

import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import auxjax
from auxjax import weighting
from auxjax.heads import Head
from auxjax.step import Main, Program, TrainState, create_state

CLASSES = 5
# Another way to compile than that of the other tests (conftest.py) and the one that users have: under it what is
# computed alike in two programs has the same bits.
AS_SHIPPED = {"xla_cpu_use_fusion_emitters": True} if "fusion_emitters" in os.environ["XLA_FLAGS"] else {}


class SmallNet(nn.Module):
    """Two convolutions with BatchNorm, dropout on request, and a classifier."""

    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for i in (1, 2):
            x = nn.Conv(8, (3, 3), strides=2, name=f"conv_{i}")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"bn_{i}")(x))
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x.mean((1, 2)))
        return nn.Dense(CLASSES, name="logits")(x)


class SmallHead(nn.Module):
    """A head with BatchNorm, so that it has statistics of its own."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn")(x.reshape(x.shape[0], -1))
        return nn.Dense(CLASSES, name="logits")(x)


def heads(weight: Any = 0.3) -> dict[str, Head]:
    return {
        "aux1": Head("bn_1", SmallHead(), weight=weight),
        "aux2": Head("conv_2", SmallHead(), weight=weight, mask="aux2_mask", label_smoothing=0.1),
    }


def program(heads: dict[str, Head], dropout_rate: float = 0.0, optimizer: Any = None, **fields: Any) -> Program:
    weights = {name: head.weight for name, head in heads.items()}
    kept = {name: weight for name, weight in weights.items() if weight != 0}
    return Program(
        attached=auxjax.attach(SmallNet(dropout_rate), heads), main=Main(), names=tuple(kept),
        weights=weighting.own_weights({"name": "constant"}, kept), optimizer=optimizer or optax.sgd(0.1, momentum=0.9),
        total_steps=20, **fields,
    )  # fmt: skip


def state(program: Program, seed: int = 0) -> TrainState:
    variables = jax.jit(program.attached.init)(jax.random.key(seed), jnp.zeros((1, 8, 8, 3)))
    return create_state(program, variables, jax.random.key(seed + 1))


def batch(size: int = 16, seed: int = 0, ragged: bool = True) -> dict[str, jax.Array]:
    """A batch whose masks leave out other examples for main than for aux2, unevenly over any split of the batch."""
    keys = jax.random.split(jax.random.key(seed), 3)
    drop = (jnp.arange(size) < size - size // 4).astype(jnp.float32)
    return {
        "image": jax.random.normal(keys[0], (size, 8, 8, 3)),
        "label": jax.random.randint(keys[1], (size,), 0, CLASSES),
        "mask": drop if ragged else jnp.ones(size),
        "aux2_mask": (jnp.arange(size) >= size // 2 - 1).astype(jnp.float32) if ragged else jnp.ones(size),
    }
