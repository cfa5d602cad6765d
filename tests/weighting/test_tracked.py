"""MoCo and DB-MTL against NumPy transcriptions over many steps, and the projection that MoCo stands on."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.weighting import tracked
from tests.weighting.auxiliary_gradients import SIZE, Array, as_tree, steps
from tests.weighting.rollouts import decided, everything, roll, roll_hard
from tests.weighting.steps import losses_of

STEPS = 30


def projected(vector: Array) -> Array:
    """The nearest point of the simplex, max(v - t, 0) with t found by bisection."""
    low, high = vector.max() - 1.0, vector.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(vector - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(vector - low, 0)


@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_the_projection_is_the_nearest_point_of_the_simplex(size: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(20, size)) * np.logspace(-3, 3, 20).reshape(-1, 1)
    with jax.enable_x64(True):
        ours = np.asarray(jax.jit(jax.vmap(tracked.onto_simplex))(jnp.asarray(vectors)))
    np.testing.assert_allclose(ours, np.stack([projected(v) for v in vectors]), atol=1e-12)


def test_the_projection_of_huge_numbers_sums_to_one() -> None:
    vectors = np.array([[-1e20, -1.1e20, -3e20], [1e30, 1e30, 0], [5.0, 5.0, 5.0], [-1e9, -1e9, 0]], np.float32)
    ours = jax.vmap(tracked.onto_simplex)(jnp.asarray(vectors))
    np.testing.assert_allclose(ours, np.array([[1, 0, 0], [0.5, 0.5, 0], [1 / 3] * 3, [0, 0, 1]]), atol=1e-6)


def test_moco_over_many_steps() -> None:
    gradients, power, regularisation = steps(3, count=STEPS, runs=1)[:, 0], 0.5, 0.3
    result = roll(tracked.moco(0.4, 0.05, power, regularisation), gradients)
    y, w = np.zeros((3, SIZE)), np.full(3, 1 / 3)
    for t, g in enumerate(gradients, 1):
        y = y - 0.4 / t**power * (y - g)
        w = projected(w - 0.05 / t**power * (y @ y.T + regularisation * np.eye(3)) @ w)
        np.testing.assert_allclose(result.weights[t - 1], w, atol=1e-10)
        np.testing.assert_allclose(result.directions[t - 1], w @ y, atol=1e-10)
    assert result.weights.std(axis=0).max() > 0.01


def test_db_mtl_over_many_steps() -> None:
    gradients, losses, power = steps(4, count=STEPS, runs=1)[:, 0], losses_of(STEPS, 4), 0.5
    gradients[:, 1] = 0
    gradients[:, 3] *= 1e-14
    result = roll(tracked.db_mtl(decay=0.8, power=power), gradients, losses)
    np.testing.assert_array_equal(result.weights[:, 1], 0)
    # A loss whose gradient is zero adds nothing.
    kept = [0, 2, 3]
    gradients, losses = gradients[:, kept], losses[:, kept]
    u = np.zeros((3, SIZE))
    for t, (g, loss) in enumerate(zip(gradients, losses, strict=True), 1):
        logarithmic = g / loss.reshape(3, 1)
        u = logarithmic + 0.8 / t**power * (u - logarithmic)
        lengths = np.linalg.norm(u, axis=1)
        direction = (lengths.max() / lengths) @ u
        np.testing.assert_allclose(result.directions[t - 1], direction, rtol=1e-9, atol=1e-9 * lengths.max())
        expected = np.minimum(lengths.max() / lengths / loss, 1e12)
        np.testing.assert_allclose(result.weights[t - 1, kept], expected, rtol=1e-9)


@pytest.mark.parametrize("make", [tracked.moco, tracked.db_mtl])
def test_hard_gradients_in_single_precision(make: Any) -> None:
    for count in (1, 4):
        hard, result = roll_hard(make(), count)
        if count == 1:
            np.testing.assert_array_equal(result.directions, hard[:, 0].astype(np.float32))
            np.testing.assert_array_equal(result.weights, 1)


@pytest.mark.parametrize("make", [tracked.moco, tracked.db_mtl])
def test_averages_of_half_precision_gradients_are_kept_in_single(make: Any) -> None:
    def one(gradients: jax.Array) -> Any:
        state = make().init(("main", "aux"), as_tree(gradients[0]))
        return decided(make(), everything(gradients, jnp.ones(2), None), state)

    (weights, direction), new = jax.eval_shape(one, jax.ShapeDtypeStruct((2, SIZE), jnp.bfloat16))
    assert direction.dtype == jnp.bfloat16 and weights.dtype == jnp.float32
    assert {x.dtype.name for x in jax.tree.leaves(new.gradients)} == {"float32"}


def test_a_decay_of_one_is_an_error() -> None:
    with pytest.raises(AuxjaxError, match="decay of db_mtl"):
        tracked.db_mtl(decay=1.0)
