"""Runs a weighting over many steps, with every signal that it may ask for: on given gradients, and on quadratics."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from auxjax.weighting.protocol import HeldOut, Signals, Weighting, combine, gramian_of
from tests.weighting.auxiliary_gradients import SIZE, Array, as_tree, as_vector, families


class Rollout(NamedTuple):
    """The weights [T, K], the directions [T, SIZE], the states after each step, stacked, and the points [T, SIZE]."""

    weights: Array
    directions: Array
    states: Any
    points: Array


def key_at(index: Any) -> jax.Array:
    """Returns the key of a step."""
    return jax.random.fold_in(jax.random.key(0), index)


def everything(gradients: Any, losses: Any, held_out: HeldOut | None, index: Any = 0) -> Signals:
    """Returns all signals of gradients [K, SIZE] and losses [K]."""
    trees = tuple(as_tree(g) for g in gradients)
    return Signals(
        jnp.asarray(index, jnp.int32), jnp.asarray(0.5), key_at(index), losses, gramian_of(trees), trees, held_out
    )


def decided(weighting: Weighting, signals: Signals, state: Any) -> tuple[tuple[Any, Any], Any]:
    """Returns the weights and the direction [SIZE] of a step, and the new state."""
    update, new = weighting.update(signals, state)
    assert signals.gradients is not None
    direction = combine(update.weights, signals.gradients) if update.direction is None else update.direction
    return (update.weights, as_vector(direction)), new


def roll(weighting: Weighting, gradients: Array, losses: Array | None = None, dtype: Any = np.float64) -> Rollout:
    """Returns T steps of gradients [T, K, SIZE] and losses [T, K], in one scan; main's loss is held out as it is."""
    steps, count = gradients.shape[:2]
    values = np.ones((steps, count)) if losses is None else losses

    def one(state: Any, given: Any) -> tuple[Any, Any]:
        index, g, loss = given
        rate = jnp.asarray(0.1, g.dtype)

        def gradient(direction: Any) -> tuple[Any, Any]:
            fall = 0 if direction is None else rate * jnp.vdot(g[0], as_vector(direction))
            return loss[0] - fall, as_tree(g[0])

        held_out = HeldOut(gradient, lambda w, v: jax.tree.map(lambda x: w.sum() * x, v), rate)
        result, new = decided(weighting, everything(g, loss, held_out, index), state)
        return new, (*result, new)

    with jax.enable_x64(dtype == np.float64):
        start = weighting.init(tuple(f"loss{k}" for k in range(count)), as_tree(jnp.zeros(SIZE, dtype)))
        inputs = (jnp.arange(steps), jnp.asarray(gradients, dtype), jnp.asarray(values, dtype))
        weights, directions, states = jax.jit(lambda s: jax.lax.scan(one, s, inputs))(start)[1]
        assert weights.dtype == directions.dtype == dtype
        kept = jax.tree.map(np.asarray, states)
    return Rollout(np.asarray(weights), np.asarray(directions), kept, np.zeros((steps, SIZE)))


def roll_hard(weighting: Weighting, count: int) -> tuple[Array, Rollout]:
    """Returns all families of `count` hard gradients and their rollout in single precision, finite throughout."""
    hard = np.concatenate(list(families(count).values()))
    result = roll(weighting, hard, dtype=np.float32)
    for leaf in jax.tree.leaves((result.weights, result.directions, result.states)):
        assert np.isfinite(leaf).all()
    return hard, result


class Quadratics(NamedTuple):
    """L_k(x) = 1/2 ||A_k (x - c_k)||^2, A [K, n, SIZE], c [K, SIZE], main's held-out loss (the last row), and eta."""

    matrices: Array
    centres: Array
    rate: float

    def losses(self, x: Any) -> Any:
        """Returns the K losses at x [SIZE], then main's held-out loss."""
        moved = x.reshape(1, SIZE) - jnp.asarray(self.centres)
        return jnp.sum(jnp.einsum("knd,kd->kn", jnp.asarray(self.matrices), moved) ** 2, axis=1) / 2

    def held_out_loss(self, x: Any) -> Any:
        """Returns V(x)."""
        return self.losses(x)[-1]

    def held_out(self, x: Any) -> HeldOut:
        """Returns what a step at x is given of V and of the K losses' Hessians."""

        def gradient(direction: Any) -> tuple[Any, Any]:
            at = x if direction is None else x - self.rate * as_vector(direction)
            loss, slope = jax.value_and_grad(self.held_out_loss)(at)
            return loss, as_tree(slope)

        def hessian(weights: Any, vector: Any) -> Any:
            curved = jnp.einsum("k,knd,kne,e->d", weights, *[jnp.asarray(self.matrices[:-1])] * 2, as_vector(vector))
            return as_tree(curved)

        return HeldOut(gradient, hessian, jnp.asarray(self.rate))

    def signals(self, x: Any, index: Any = 0) -> Signals:
        """Returns what a weighting sees at x."""
        gradients = jax.jacobian(self.losses)(x)[:-1]
        return everything(gradients, self.losses(x)[:-1], self.held_out(x), index)


def quadratics(count: int = 3, seed: int = 0, rate: float = 0.05) -> Quadratics:
    """Returns K random losses; main's held-out one has another matrix and a centre near main's."""
    draw = np.random.default_rng(seed)
    matrices = draw.normal(size=(count + 1, SIZE, SIZE)) / 2 + np.eye(SIZE)
    centres = draw.normal(size=(count + 1, SIZE))
    centres[-1] = centres[0] + 0.1 * draw.normal(size=SIZE)
    return Quadratics(matrices, centres, rate)


def train(weighting: Weighting, losses: Quadratics, steps: int) -> Rollout:
    """Returns `steps` steps of SGD from 0 with the weighting, in one scan, in float64."""
    count = len(losses.centres) - 1

    def one(carry: Any, index: Any) -> tuple[Any, Any]:
        x, state = carry
        (weights, direction), new = decided(weighting, losses.signals(x, index), state)
        moved = x - losses.rate * direction
        return (moved, new), (weights, direction, new, moved)

    with jax.enable_x64(True):
        x = jnp.zeros(SIZE)
        start = (x, weighting.init(tuple(f"loss{k}" for k in range(count)), as_tree(x)))
        rows = jax.jit(lambda s: jax.lax.scan(one, s, jnp.arange(steps)))(start)[1]
        return Rollout(*jax.tree.map(np.asarray, rows))
