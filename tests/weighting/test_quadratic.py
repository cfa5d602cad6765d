"""The solvers against SciPy's non-negative least squares, closed forms, and their own conditions of optimality."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from auxjax.weighting.quadratic import box_minimum, fair, nash, simplex_minimum, towards_the_worst
from tests.weighting.gramians import SIZES, Array, directions, families, shortest_in_hull

# Nothing but `simplex_minimum` knows one or two gradients from more.
EVERY_SIZE = [*((k, np.float64) for k in SIZES), (5, np.float32)]
CASES = [(5, np.float64), (16, np.float32)]
# Gradients with a direction in which every loss falls; without one, or nearly so, some solutions do not exist.
SOLVABLE = ("random", "conflicting", "parallel", "badly_scaled")


def solved(solver: Callable[..., jax.Array], matrices: dict[str, Array], dtype: Any) -> dict[str, Array]:
    """Returns the solutions [N, K] in float64 by family, from Gramians in `dtype` and one compiled program."""
    gramians = np.stack([j @ j.transpose(0, 2, 1) for j in matrices.values()]).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        found = jax.jit(jax.vmap(jax.vmap(solver)))(jnp.asarray(gramians))
        assert found.dtype == dtype
    assert np.all(np.isfinite(found))
    return dict(zip(matrices, np.asarray(found, np.float64), strict=True))


@pytest.mark.parametrize(("k", "dtype"), EVERY_SIZE)
def test_simplex_minimum_is_the_shortest_vector_of_the_hull(k: int, dtype: Any) -> None:
    matrices = families(k, np.float64)
    for name, weights in solved(simplex_minimum, matrices, dtype).items():
        assert np.all(weights >= 0), name
        np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
        expected = np.stack([shortest_in_hull(matrix) for matrix in matrices[name]])
        scale = np.linalg.norm(matrices[name], axis=2).min(axis=1)
        found = directions(weights, matrices[name])
        excess = np.sum(found**2, axis=1) - np.sum(expected**2, axis=1)
        assert np.all(excess <= (1e-6 if dtype == np.float32 else 1e-12) * scale**2), name
        if dtype == np.float64:
            assert np.all(np.linalg.norm(found - expected, axis=1) <= 1e-9 * scale), name


@pytest.mark.parametrize("gramian", [[[1, 2], [2, 9]], [[9, 2], [2, 1]], [[1, -2], [-2, 9]], [[4, 4], [4, 4]]])
def test_simplex_minimum_of_two_is_the_closed_form(gramian: Any) -> None:
    (a, b), (_, c) = gramian
    share = 0.5 if a + c == 2 * b else min(max((c - b) / (a + c - 2 * b), 0.0), 1.0)
    found = simplex_minimum(jnp.asarray(gramian, jnp.float32))
    np.testing.assert_allclose(found, [share, 1 - share], rtol=1e-6)


@pytest.mark.parametrize(("k", "dtype"), CASES)
def test_box_minimum_is_the_nearest_point_of_the_dual_cone(k: int, dtype: Any) -> None:
    matrices = families(k, np.float64)
    lower = np.random.default_rng(0).uniform(0, 1, k)

    def solver(gramian: jax.Array) -> jax.Array:
        return box_minimum(gramian, jnp.asarray(lower, gramian.dtype))

    for name, values in solved(solver, matrices, dtype).items():
        assert np.all(values >= lower.astype(dtype)), name
        for v, matrix in zip(values, matrices[name], strict=True):
            scale = v @ np.linalg.norm(matrix, axis=1)
            slope, expected = matrix @ (v @ matrix), matrix.T @ nnls(matrix.T, -lower @ matrix)[0] + lower @ matrix
            precision = 1e-6 if dtype == np.float32 else 1e-12
            assert np.all(slope >= -precision * scale * np.linalg.norm(matrix, axis=1)), name
            assert np.all(np.abs((v - lower) * slope) <= precision * scale**2), name
            if dtype == np.float64:
                np.testing.assert_allclose(v @ matrix, expected, atol=1e-9 * scale + 1e-300)


@pytest.mark.parametrize(("k", "dtype"), CASES)
@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_fair_and_nash_solve_their_equations(k: int, dtype: Any, alpha: float) -> None:
    matrices = families(k, np.float64)
    preference = np.linspace(1, 2, k)

    def solver(gramian: jax.Array) -> jax.Array:
        if alpha == 1:
            return nash(gramian, jnp.asarray(preference, gramian.dtype))
        return fair(gramian, alpha)

    target = preference if alpha == 1 else np.ones(k)
    for name, weights in solved(solver, matrices, dtype).items():
        norms = np.linalg.norm(matrices[name], axis=2)
        np.testing.assert_array_equal(weights > 0, norms > 0)
        if name in SOLVABLE:
            gramian = matrices[name] @ matrices[name].transpose(0, 2, 1)
            wanted, terms = target * weights ** (-1 / alpha), np.einsum("nij,nj->nij", gramian, weights)
            size = wanted + np.abs(terms).sum(axis=2)
            precision = 1e-5 if dtype == np.float32 else 1e-13
            assert np.all(np.abs(terms.sum(axis=2) - wanted) <= precision * size), name


def test_fair_of_alpha_one_is_nash_and_below_one_converges() -> None:
    matrices = {name: families(3, np.float64)[name] for name in SOLVABLE}

    def solver(g: jax.Array) -> jax.Array:
        half = fair(g, 0.5)
        return jnp.stack([fair(g, 1.0), nash(g, jnp.ones(3)), g @ half, half])

    both = solved(solver, matrices, np.float64)
    for name in SOLVABLE:
        one, expected, product, half = both[name].transpose(1, 0, 2)
        np.testing.assert_array_equal(one, expected)
        np.testing.assert_allclose(product * half**2, 1, atol=1e-9, err_msg=name)


def test_nash_does_not_depend_on_the_length_of_gradients() -> None:
    gramian = jnp.asarray([[2.0, -1.0, 0.5], [-1.0, 3.0, 0.1], [0.5, 0.1, 1.0]])
    scales = jnp.asarray([[1.0, 1.0, 1.0], [1e-7, 1.0, 1e8]])
    solver = jax.jit(jax.vmap(lambda s: nash(gramian * jnp.outer(s, s), jnp.ones(3)) * s))
    plain, scaled = solver(scales)
    np.testing.assert_allclose(scaled, plain, rtol=1e-5)


@pytest.mark.parametrize(("k", "dtype"), [(3, np.float64), pytest.param(16, np.float32, marks=pytest.mark.slow_study)])
def test_towards_the_worst_closes_the_gap_of_duality(k: int, dtype: Any) -> None:
    """No d in the ball around the mean m has a greater min_k g_k . d than the least g_v . m + radius ||m|| ||g_v||."""
    radius, matrices = 0.4, families(k, np.float64)
    for name, extra in solved(lambda gramian: towards_the_worst(gramian, radius), matrices, dtype).items():
        assert np.all(extra >= 0), name
        mean, moved = matrices[name].mean(axis=1), directions(extra, matrices[name])
        ball = radius * np.linalg.norm(mean, axis=1)
        precision = 1e-5 if dtype == np.float32 else 1e-10
        scale = np.linalg.norm(matrices[name], axis=2)
        within = np.linalg.norm(moved, axis=1) - ball
        assert np.all(within <= precision * (ball + np.sum(extra * scale, axis=1))), name
        if name in SOLVABLE:
            worst = np.einsum("nkd,nd->nk", matrices[name], mean + moved).min(axis=1)
            share = extra / np.maximum(extra.sum(axis=1, keepdims=True), 1e-300)
            hull = directions(share, matrices[name])
            dual = np.sum(hull * mean, axis=1) + ball * np.linalg.norm(hull, axis=1)
            assert np.all(np.abs(dual - worst) <= precision * scale.max(axis=1) * np.linalg.norm(mean, axis=1)), name


def test_the_nearest_point_of_a_hull_has_the_least_inner_product_with_its_vectors() -> None:
    draw = np.random.default_rng(3)
    points = draw.standard_normal((12, 6, 8)) + 0.3
    points[4] = points[4, :1]  # one point six times
    points[5, 3:] = -points[5, :3]  # 0 is in the hull
    points[6] = 0
    points[7] *= 1e-8
    points[8, 0] *= 1e4
    points[9, :, 2:] = 0  # more points than dimensions
    a = jnp.asarray(points, np.float32)
    found = jax.jit(jax.vmap(simplex_minimum))(jnp.einsum("nid,njd->nij", a, a, precision="highest"))
    v = np.asarray(found, np.float64)
    assert np.all(v >= 0)
    np.testing.assert_allclose(v.sum(axis=1), 1, rtol=1e-5)
    nearest = np.einsum("ni,nid->nd", v, points)
    products = np.einsum("nid,nd->ni", points, nearest)
    scale = np.einsum("nid,nid->n", points, points)
    gap = np.einsum("nd,nd->n", nearest, nearest) - products.min(axis=1)
    assert np.all(gap <= 1e-5 * scale)
