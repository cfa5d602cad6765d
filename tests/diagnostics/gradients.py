"""What the tests of gradient diagnostics share: a state of PlainNet with linear heads, and gradients by jax.grad."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import auxjax
from auxjax import weighting
from auxjax.gradients import apply
from auxjax.heads import Head, LinearProbe
from auxjax.losses import head_losses
from auxjax.models import PlainNet
from auxjax.state import Batch, Main, Program, TrainState, create_state
from auxjax.step import step_key
from auxjax.weighting.protocol import CONSTANT, Weighting

CLASSES = 4


def plain_state(
    depth: int, taps: dict[str, float], chosen: Weighting | None = None, width: int = 6, features: int = 5,
    **fields: Any,
) -> TrainState:  # fmt: skip
    """A PlainNet of sigmoid layers whose head `aux{i}` on `layer_{i}` has weight `taps[...]`."""
    heads = {
        f"aux{at.rpartition('_')[2]}": Head(at, LinearProbe(num_classes=CLASSES), weight=w) for at, w in taps.items()
    }
    net = PlainNet(num_classes=CLASSES, depth=depth, width=width)
    program = Program(
        attached=auxjax.attach(net, heads), main=Main(), names=tuple(heads),
        weights=weighting.own_weights({"name": "constant"}, {name: head.weight for name, head in heads.items()}),
        optimizer=optax.sgd(0.1), total_steps=10, weighting=chosen or CONSTANT, **fields,
    )  # fmt: skip
    variables = jax.jit(program.attached.init)(jax.random.key(0), jnp.zeros((1, features)))
    return create_state(program, variables, jax.random.key(1))


def examples(size: int, seed: int = 0) -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(seed), 2)
    label = jax.random.randint(keys[1], (size,), 0, CLASSES)
    return {"image": jax.random.normal(keys[0], (size, 5)), "label": label}


@functools.partial(jax.jit, static_argnums=2)
def gradient(state: TrainState, batch: Batch, name: str) -> Any:
    """The gradient of one head's mean loss by the model's parameters, by jax.grad."""

    def loss(model: Any) -> jax.Array:
        params = {**state.params, "model": model}
        outputs, _ = apply(state, params, state.statistics, batch, step_key(state))
        total, count = head_losses(outputs, batch, state.program.objectives)[name]
        return total / count

    return jax.grad(loss)(state.params["model"])


def flat(tree: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])
