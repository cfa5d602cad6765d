"""ATTITTUD against a singular value decomposition in NumPy, and the methods that it contains."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.weighting import asymmetric
from auxjax.weighting.decomposition import attittud
from tests.weighting.auxiliary_gradients import run, steps

WEIGHTS = {"orthogonal": 0.5, "helpful": 2.0, "harmful": -1.0}


def test_attittud_is_the_decomposition_by_singular_vectors() -> None:
    gradients = steps(3, count=9)
    with jax.enable_x64(True):
        result = run(attittud(**WEIGHTS, basis=3), gradients, np.float64)
    for n in range(gradients.shape[1]):
        for t in range(len(gradients)):
            recent = gradients[max(0, t - 2) : t + 1, n, 0]
            unit = recent / np.linalg.norm(recent, axis=1).reshape(-1, 1)
            vectors = np.linalg.svd(unit, full_matrices=False)[2]
            main, *others = gradients[t, n]
            expected, shares = main.copy(), []
            for g in others:
                p, q = vectors @ g, vectors @ main
                factors = np.where(p * q > 0, WEIGHTS["helpful"], WEIGHTS["harmful"])
                changed = WEIGHTS["orthogonal"] * (g - vectors.T @ p) + vectors.T @ (factors * p)
                expected += changed
                shares.append(changed @ g / (g @ g))
            np.testing.assert_allclose(result.weights[t, n], [1, *shares], rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(result.directions[t, n], expected, rtol=1e-6, atol=1e-6)


def test_a_basis_of_this_gradient_alone_is_pri_pcgrad() -> None:
    gradients = steps(4, count=3)
    result = run(attittud(basis=1), gradients)
    np.testing.assert_allclose(result.directions, run(asymmetric.pri_pcgrad(), gradients).directions, atol=1e-4)


def test_equal_weights_are_the_sum() -> None:
    gradients = steps(3, count=6)
    result = run(attittud(orthogonal=1.0, helpful=1.0, harmful=1.0, basis=4), gradients)
    np.testing.assert_allclose(result.directions, gradients.sum(axis=2), atol=1e-4)
    np.testing.assert_allclose(result.weights, 1, atol=1e-4)


def test_main_never_rises_also_where_the_basis_leaves_main_out() -> None:
    # Nine gradients along one line and one that is all but on it: its own direction is cut off.
    line, aside = np.array([1.0, 1, 1, 1, 1, 1]), np.array([1.0, -1, 1, -1, 1, -1])
    gradients = np.ones((10, 1, 3, 6)) * line
    gradients[-1, 0, 0] += 0.02 * aside
    gradients[-1, 0, 1:] = -100 * aside
    result = run(attittud(basis=10), gradients)
    main, direction = gradients[-1, 0, 0], result.directions[-1, 0]
    assert main @ direction >= -1e-5 * np.linalg.norm(main) * np.linalg.norm(direction)


def test_a_zero_gradient_is_not_remembered() -> None:
    gradients = np.repeat(steps(2, count=5, runs=1), 2, axis=1)
    gradients[2, 0, 0], gradients[4, 1, 0] = 0, 0  # in the middle of one run, and at the end of the other
    gradients[3:, 0] = gradients[2:4, 1]
    result = run(attittud(basis=2), gradients)
    np.testing.assert_allclose(np.delete(result.directions[:, 0], 2, axis=0), result.directions[:4, 1], atol=1e-5)
    assert result.state.seen.tolist() == [4, 4]


def test_an_empty_basis_is_refused() -> None:
    with pytest.raises(AuxjaxError, match="basis of attittud must be at least 1, not 0"):
        attittud(basis=0)
