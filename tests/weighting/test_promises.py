"""Each promise of the registry, tested on every method that makes it, and seen to fail on a weighting that does not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.weighting import METHODS, PROMISES
from auxjax.weighting.protocol import CONSTANT, HeldOut, Method, Signals, Update, Weighting, combine, inner
from tests.weighting.auxiliary_gradients import SIZE, Array, as_tree, as_vector, families
from tests.weighting.gramians import families as matrices

STEPS, K = 3, 4


def held_out(main: Any) -> HeldOut:
    """A loss whose gradient by the trunk is main's everywhere."""
    rate = jnp.asarray(0.1, main.dtype)

    def gradient(direction: Any) -> tuple[Any, Any]:
        fall = jnp.zeros((), main.dtype) if direction is None else rate * inner(as_tree(main), direction)
        return jnp.ones((), main.dtype) - fall, as_tree(main)

    return HeldOut(gradient, lambda weights, vector: vector, rate)


def run(weighting: Weighting, gradients: Array, losses: Array) -> tuple[Array, Array]:
    """Returns weights [T, N, K] and directions [T, N, d] for gradients [T, N, K, d], in float64."""
    with jax.enable_x64(True):
        weights, directions = compiled(weighting, gradients.shape[2])(jnp.asarray(gradients), jnp.asarray(losses))
    return np.asarray(weights), np.asarray(directions)


@functools.cache
def made(name: str) -> Weighting:
    return METHODS[name].make()


@functools.cache
def compiled(weighting: Weighting, count: int) -> Callable[..., Any]:
    """`(gradients, losses) -> (weights, directions)` over all families, which every check of a method shares."""

    def one(carry: Any, given: Any) -> tuple[Any, Any]:
        index, state = carry
        g, values = given
        trees = tuple(as_tree(row) for row in g)
        seen = Signals(
            step=index, progress=index / STEPS, key=jax.random.fold_in(jax.random.key(3), index), losses=values,
            gramian=jnp.matmul(g, g.T, precision="highest"), gradients=trees, held_out=held_out(g[0]),
        )  # fmt: skip
        update, state = weighting.update(seen, state)
        weights = jnp.broadcast_to(update.weights, (count,)).astype(g.dtype)
        direction = combine(weights, trees) if update.direction is None else update.direction
        if weighting.finish:
            state = weighting.finish(seen._replace(losses_after=values), state)
        return (index + 1, state), (weights, as_vector(direction).astype(g.dtype))

    def many(g: Any, values: Any) -> Any:
        start = weighting.init(tuple(f"loss{k}" for k in range(count)), as_tree(g[0, 0]))
        return jax.lax.scan(one, (jnp.zeros((), jnp.int32), start), (g, values))[1]

    return jax.jit(jax.vmap(many, in_axes=1, out_axes=1))


def inputs(k: int = K) -> tuple[Array, Array]:
    """All families of gradients [T, N, k, d], those of Gramian methods among them, and positive losses [T, N, k]."""
    easy = [np.concatenate(list(families(k, seed).values())) for seed in range(STEPS)]
    hard = np.concatenate(list(matrices(k, np.float64).values()))[..., :SIZE]
    hard = np.pad(hard, ((0, 0), (0, 0), (0, SIZE - hard.shape[-1])))
    gradients = np.concatenate([np.stack(easy), np.stack([hard] * STEPS)], axis=1)
    losses = np.exp(np.random.default_rng(0).normal(size=gradients.shape[:3]))
    return gradients, losses


@functools.cache
def ran(name: str) -> tuple[Array, Array]:
    return run(made(name), *inputs())


def cosines(a: Array, b: Array) -> Array:
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.where(lengths > 0, (a * b).sum(-1) / np.where(lengths > 0, lengths, 1), 1.0)


def descends(each: Array, weights: Array, directions: Array) -> bool:
    """Whether no row of `each` [T, N, k, d] loses to the direction, to rounding.

    A sum of gradients that balance each other out is known to the root of the last bit only, since a Gramian squares.
    """
    rows = np.linalg.norm(inputs()[0], axis=-1)
    summands = (np.abs(weights) * rows).sum(-1)
    lengths = np.linalg.norm(each, axis=-1)
    allowed = lengths * (1e-5 * np.linalg.norm(directions, axis=-1) + 1e-6 * summands)[..., None]
    return bool(np.all((each * directions[:, :, None]).sum(-1) >= -allowed))


def main_first(weighting: Weighting, weights: Array, directions: Array) -> bool:
    return descends(inputs()[0][:, :, :1], weights, directions)


def main_one(weighting: Weighting, weights: Array, directions: Array) -> bool:
    """Whether main's weight is 1, and main's gradient the direction where the others have none."""
    gradients, losses = inputs()
    alone = gradients * (np.arange(K) == 0)[:, None]
    _, along = run(weighting, alone, losses)
    close = np.allclose(along, gradients[:, :, 0], rtol=1e-6, atol=0)
    return close and bool(np.all(np.abs(weights[..., 0] - 1) < 1e-6))


def all_descend(weighting: Weighting, weights: Array, directions: Array) -> bool:
    return descends(inputs()[0], weights, directions)


def scale_invariant(weighting: Weighting, weights: Array, directions: Array) -> bool:
    gradients, losses = inputs()
    factor = np.array([1.0, 1.0, 7.0, 1.0])
    _, again = run(weighting, gradients * factor[:, None], losses * factor)
    plain = [i for i in range(gradients.shape[1]) if np.linalg.cond(gradients[0, i]) < 1e4]
    return bool(np.all(cosines(directions, again)[:, plain] > 1 - 1e-3))


def permuted(order: list[int]) -> Callable[[Weighting, Array, Array], bool]:
    def check(weighting: Weighting, weights: Array, directions: Array) -> bool:
        gradients, losses = inputs()
        again, _ = run(weighting, gradients[:, :, order], losses[:, :, order])
        # Where gradients are nearly equal, weights that differ make the same update.
        plain = [i for i in range(gradients.shape[1]) if np.linalg.cond(gradients[0, i]) < 1e4]
        expected = weights[..., order]
        size = np.maximum(np.abs(expected).max(-1, keepdims=True), 1e-30)
        return bool(np.all((np.abs(again - expected) / size)[:, plain] < 1e-3))

    return check


def sums(total: float) -> Callable[[Weighting, Array, Array], bool]:
    return lambda weighting, weights, directions: bool(np.allclose(weights.sum(-1), total, rtol=1e-4))


CHECKS: dict[str, Callable[[Weighting, Array, Array], bool]] = {
    "main_first": main_first,
    "all_descend": all_descend,
    "scale_invariant": scale_invariant,
    "symmetric": permuted([2, 0, 3, 1]),
    "heads_symmetric": permuted([0, 3, 1, 2]),
    "main_one": main_one,
    "sum_k": sums(K),
    "sum_one": sums(1.0),
}
UNEQUAL = CONSTANT._replace(update=lambda signals, state: (Update(jnp.asarray([2.0, 1.0, 0.5, 0.1])), state))


def test_every_promise_has_a_check_that_can_fail() -> None:
    assert set(CHECKS) == set(PROMISES)
    weights, directions = run(UNEQUAL, *inputs())
    for name, check in CHECKS.items():
        assert not check(UNEQUAL, weights, directions), name


@pytest.mark.parametrize(
    ("name", "promise"), [(name, promise) for name, method in METHODS.items() for promise in sorted(method.promises)]
)
def test_a_method_keeps_its_promise(name: str, promise: str) -> None:
    assert CHECKS[promise](made(name), *ran(name))


@pytest.mark.parametrize("name", METHODS)
def test_numbers_stay_finite_and_main_alone_is_main(name: str) -> None:
    method: Method = METHODS[name]
    assert method.source and method.promises <= set(PROMISES)
    assert all(np.isfinite(values).all() for values in ran(name))
    gradients, losses = inputs(1)
    _, directions = run(made(name), gradients, losses)
    # Adam's direction is no multiple of the gradient.
    assert name == "mt_adam" or np.all(cosines(directions, gradients[:, :, 0]) > 1 - 1e-6)
