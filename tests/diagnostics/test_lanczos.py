"""Lanczos and Hutchinson on matrices whose spectrum is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.diagnostics.lanczos import Tridiagonal, density, lanczos, rademacher, ritz


def symmetric(spectrum: np.ndarray, seed: int = 0) -> np.ndarray:
    size = len(spectrum)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    return np.asarray(basis @ np.diag(spectrum) @ basis.T, np.float32)


@jax.jit
def _run_20(matrix: jax.Array, key: jax.Array) -> Tridiagonal:
    return lanczos(lambda v: matrix @ v, rademacher(key, matrix[0]), 20, jax.random.fold_in(key, 1))


SPECTRUM = np.concatenate([[-30.0, 50.0, 70.0, 100.0], np.linspace(-1, 1, 16)])


def test_as_many_steps_as_dimensions_give_the_whole_spectrum() -> None:
    found = ritz(_run_20(jnp.asarray(symmetric(SPECTRUM)), jax.random.key(0)))
    np.testing.assert_allclose(found.values, np.sort(SPECTRUM), atol=1e-4)
    np.testing.assert_allclose(found.weights.sum(), 1, atol=1e-6)


def test_an_eigenvalue_lies_within_each_residual_and_outer_ones_are_found_first() -> None:
    spectrum = np.concatenate([[-300.0, 500.0, 700.0, 1000.0], np.linspace(-1, 1, 296)])
    found = ritz(_run_20(jnp.asarray(symmetric(spectrum)), jax.random.key(0)))
    np.testing.assert_allclose(found.values[[-1, -2, -3, 0]], [1000, 700, 500, -300], rtol=1e-5)
    distance = np.abs(found.values[:, None] - spectrum[None]).min(1)
    assert (distance <= found.residuals + 1e-3).all()
    assert found.residuals[-1] < 1e-2 < found.residuals.max()


@pytest.mark.parametrize("spectrum", [np.zeros(20), np.full(20, 3.0), np.repeat([5.0, 0.0, -2.0], [3, 15, 2])])
def test_an_exhausted_krylov_space_goes_on_in_the_rest(spectrum: np.ndarray) -> None:
    found = ritz(_run_20(jnp.asarray(symmetric(spectrum)), jax.random.key(0)))
    np.testing.assert_allclose(found.values, np.sort(spectrum), atol=2e-5)
    mean = (found.values * found.weights).sum()
    assert np.isfinite(mean) and spectrum.min() - 1e-5 <= mean <= spectrum.max() + 1e-5


def test_a_run_that_is_cut_short_is_the_beginning_of_the_whole() -> None:
    matrix, key = jnp.asarray(symmetric(SPECTRUM)), jax.random.key(0)
    whole = _run_20(matrix, key)
    run = jax.jit(
        lambda c: lanczos(lambda v: matrix @ v, rademacher(key, matrix[0]), 20, jax.random.fold_in(key, 1), c)
    )
    for count in (1, 7):
        for cut, full in zip(run(count), whole, strict=True):
            np.testing.assert_allclose(cut[:count], full[:count], rtol=1e-5)
            assert not np.any(cut[count:])


def test_weights_are_the_quadrature_of_the_starting_vector() -> None:
    matrix = symmetric(np.linspace(-2, 3, 300), seed=1)
    key = jax.random.key(3)
    found = ritz(_run_20(jnp.asarray(matrix), key))
    start = np.asarray(rademacher(key, jnp.asarray(matrix[0])), np.float64)
    power, wide = start, matrix.astype(np.float64)
    for exponent in range(5):
        np.testing.assert_allclose((found.weights * found.values**exponent).sum(), start @ power, rtol=1e-4)
        power = wide @ power


def test_density_is_of_integral_one_and_has_the_moments_of_the_spectrum() -> None:
    matrix = jnp.asarray(symmetric(np.linspace(-2, 3, 300)))
    found = [ritz(_run_20(matrix, jax.random.key(i))) for i in range(4)]
    x, y = density(found)
    step = x[1] - x[0]
    np.testing.assert_allclose(y.sum() * step, 1, atol=1e-3)
    np.testing.assert_allclose((x * y).sum() * step, 0.5, atol=0.1)
    assert (y >= 0).all()
    # Evenly spread eigenvalues: a third of them in each third of the range, to the spacing of the nodes.
    thirds = [y[(x > low) & (x <= low + 5 / 3)].sum() * step for low in (-2, -1 / 3, 4 / 3)]
    np.testing.assert_allclose(thirds, 1 / 3, atol=0.1)


def test_density_of_one_value_is_a_bell_around_it() -> None:
    found = ritz(_run_20(jnp.zeros((20, 20)), jax.random.key(0)))
    x, y = density([found])
    assert abs(x[y.argmax()]) < 1e-3 and np.isclose(y.sum() * (x[1] - x[0]), 1, atol=1e-3)


def test_signs_give_the_trace_exactly_on_a_diagonal_and_with_the_known_variance_elsewhere() -> None:
    spectrum = np.linspace(-2, 3, 50).astype(np.float32)

    @jax.jit
    def draw(matrix: jax.Array) -> jax.Array:
        signs = jax.vmap(lambda key: rademacher(key, matrix[0]))(jax.random.split(jax.random.key(0), 4000))
        return 50 * (signs * (signs @ matrix)).sum(1)

    np.testing.assert_allclose(draw(jnp.diag(jnp.asarray(spectrum))), spectrum.sum(), rtol=1e-5)
    matrix = symmetric(spectrum)
    samples = np.asarray(draw(jnp.asarray(matrix)))
    variance = 2 * (matrix**2).sum() - 2 * (np.diag(matrix) ** 2).sum()
    np.testing.assert_allclose(samples.var(), variance, rtol=0.1)
    assert abs(samples.mean() - spectrum.sum()) < 4 * np.sqrt(variance / len(samples))
