"""A network of two layers with a linear head on each, small enough to compile in a moment, and a batch for it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

import auxjax
from auxjax import weighting
from auxjax.heads import HEADS, Head
from auxjax.models import PlainNet
from auxjax.state import Main, Program, TrainState, create_state

CLASSES = 4
LOSSES = ("main", "aux1", "aux2", "total")
WEIGHTS = {"aux1": 0.3, "aux2": 0.5}


def model(**fields: Any) -> PlainNet:
    return PlainNet(num_classes=CLASSES, depth=2, width=3, activation="tanh", **fields)


def state(seed: int = 0, heads: Any = None, **fields: Any) -> TrainState:
    """A state whose heads, unless given, have the weights `WEIGHTS`; `fields` are PlainNet's."""
    linear: Any = HEADS["linear"]
    if heads is None:
        heads = {
            "aux1": Head("layer_1", linear(num_classes=CLASSES), weight=WEIGHTS["aux1"]),
            "aux2": Head("layer_2", linear(num_classes=CLASSES), weight=WEIGHTS["aux2"], mask="aux2_mask"),
        }
    weights = {name: head.weight for name, head in heads.items() if head.weight}
    own = weighting.own_weights({"name": "constant"}, weights)
    program = Program(auxjax.attach(model(**fields), heads), Main(), tuple(weights), own, optax.identity(), 20)
    variables = jax.jit(program.attached.init)(jax.random.key(seed), jnp.zeros((1, 4, 4, 2)))
    return create_state(program, variables, jax.random.key(0))


def batch(size: int = 8, seed: int = 0) -> dict[str, jax.Array]:
    """A batch whose last quarter is masked for main and whose first quarter for aux2."""
    keys = jax.random.split(jax.random.key(seed), 2)
    place = jnp.arange(size)
    return {
        "image": jax.random.normal(keys[0], (size, 4, 4, 2)),
        "label": jax.random.randint(keys[1], (size,), 0, CLASSES),
        "mask": (place < size - size // 4).astype(jnp.float32),
        "aux2_mask": (place >= size // 4).astype(jnp.float32),
    }
