"""MetaBalance and MTAdam against transcriptions in NumPy, and Adam."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from auxjax.weighting import balanced
from tests.weighting.auxiliary_gradients import Array, run, steps

TENSORS = (slice(0, 2), slice(2, 5), slice(5, 6))


def norms(rows: Array) -> Array:
    """Returns [K, L], the norms of gradients [K, d] by tensor."""
    return np.stack([np.linalg.norm(rows[:, t], axis=1) for t in TENSORS], axis=1)


def spread(factors: Array) -> Array:
    """Returns factors [K, L] as [K, d]."""
    return np.repeat(factors, [t.stop - t.start for t in TENSORS], axis=1)


def test_meta_balance_is_its_recursion() -> None:
    gradients = steps(3, count=15)
    with jax.enable_x64(True):
        result = run(balanced.meta_balance(), gradients, np.float64)
    for n in range(gradients.shape[1]):
        average = np.zeros((3, 3))
        for t, rows in enumerate(gradients[:, n]):
            average = 0.9 * average + 0.1 * norms(rows)
            factors = 0.7 * average[:1] / average + 0.3
            np.testing.assert_allclose(result.directions[t, n], (spread(factors) * rows).sum(axis=0), rtol=1e-9)
            expected = (factors * norms(rows) ** 2).sum(axis=1) / (rows**2).sum(axis=1)
            np.testing.assert_allclose(result.weights[t, n], expected, rtol=1e-9)


def test_meta_balance_at_full_strength_gives_every_gradient_the_size_of_main() -> None:
    gradients = steps(2, count=1)
    result = run(balanced.meta_balance(relax=1.0), gradients)
    others = result.directions[0] - gradients[0, :, 0]
    for n in range(len(others)):
        np.testing.assert_allclose(norms(others[n : n + 1])[0], norms(gradients[0, n])[0], rtol=1e-4)


def mt_adam_step(rows: Array, state: dict[str, Array], count: int) -> Array:
    now = norms(rows)
    state["norms"] = now if count == 1 else 0.9 * state["norms"] + 0.1 * now
    scaled = spread(state["norms"][:1] / state["norms"]) * rows
    state["first"] = 0.9 * state["first"] + 0.1 * scaled
    state["second"] = 0.999 * state["second"] + 0.001 * scaled**2
    largest = np.max(np.sqrt(state["second"] / (1 - 0.999**count)) + 1e-8, axis=0)
    return np.sum(state["first"] / (1 - 0.9**count), axis=0) / largest


def test_mt_adam_is_its_recursion() -> None:
    gradients = steps(3, count=15)
    with jax.enable_x64(True):
        result = run(balanced.mt_adam(), gradients, np.float64)
    for n in range(gradients.shape[1]):
        state = {"first": np.zeros((3, 6)), "second": np.zeros((3, 6))}
        for t, rows in enumerate(gradients[:, n]):
            np.testing.assert_allclose(result.directions[t, n], mt_adam_step(rows, state, t + 1), rtol=1e-9, atol=1e-9)


def test_mt_adam_of_main_alone_is_adam() -> None:
    gradients = steps(1, count=10)
    directions = run(balanced.mt_adam(), gradients).directions
    adam = optax.scale_by_adam()

    def step(state: Any, gradient: jax.Array) -> tuple[Any, jax.Array]:
        update, state = adam.update(gradient, state)
        return state, update

    inputs = jnp.asarray(gradients[:, :, 0], jnp.float32)
    expected = jax.jit(lambda: jax.lax.scan(step, adam.init(inputs[0]), inputs)[1])()
    np.testing.assert_allclose(directions, expected, rtol=1e-4, atol=1e-5)


def test_mt_adam_does_not_see_the_scale_of_an_auxiliary_loss() -> None:
    gradients = steps(3, count=5)
    scaled = gradients * np.array([1, 1e3, 1e-3]).reshape(-1, 1)
    plain, other = np.split(run(balanced.mt_adam(), np.concatenate([gradients, scaled], axis=1)).directions, 2, axis=1)
    np.testing.assert_allclose(other, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["meta_balance", "mt_adam"])
def test_a_gradient_that_vanishes_for_long_leaves_no_infinity(name: str) -> None:
    gradients = np.repeat(1e4 * steps(3, count=1), 1200, axis=0)
    gradients[1:, 0, 1] = 0
    gradients[1:, 1, 0] = 0
    gradients[-1, 1, 0] = 1
    result = run(balanced.METHODS[name].make(), gradients)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(tuple(result)))


def test_a_tensor_that_main_does_not_reach_is_anchored_at_the_first_loss_that_does() -> None:
    gradients = np.abs(steps(3, count=1))
    gradients[..., 0, TENSORS[1]] = 0
    directions = run(balanced.mt_adam(), gradients).directions
    # Adam's first step is the sum of the signs, each divided by the largest of the sizes, which are those of loss 1.
    for n, rows in enumerate(gradients[0]):
        part = rows[1:, TENSORS[1]]
        sized = part / np.linalg.norm(part, axis=1).reshape(-1, 1)
        np.testing.assert_allclose(directions[0, n, TENSORS[1]], sized.sum(axis=0) / sized.max(axis=0), rtol=1e-4)
