"""Priority-constrained descent against its definition, TorchJD, and what it does not promise."""

from __future__ import annotations

import functools
import itertools

import jax
import numpy as np
import pytest

from auxjax.weighting.priority import pcd
from tests.weighting.auxiliary_gradients import SIZE, Array, run, steps


def by_definition(main: Array, others: Array, fraction: float) -> Array:
    """Returns argmin ||d - main|| such that g_j . d >= fraction ||g_j||^2, over every set that may bind."""
    needed = fraction * np.sum(others**2, axis=1) - others @ main
    points = [main] if np.all(needed <= 0) else []
    for size in range(1, len(others) + 1):
        for chosen in itertools.combinations(range(len(others)), size):
            z = np.linalg.pinv(others[list(chosen)]) @ needed[list(chosen)]
            if np.all(others @ z >= needed - 1e-10):
                points.append(main + z)
    return min(points, key=lambda d: float(np.linalg.norm(d - main)), default=main)


@functools.cache
def over_steps() -> tuple[Array, Array]:
    """Gradients of four losses, two of them in need of care, and PCD's directions in float64."""
    gradients = steps(4, count=12)
    gradients[4:6, :, 2] = 0
    gradients[7, :, 1] = -gradients[7, :, 0]
    with jax.enable_x64(True):
        return gradients, run(pcd(fraction=0.3, decay=0.9, epsilon=0.1), gradients, np.float64).directions


def test_pcd_is_its_definition_over_steps() -> None:
    gradients, exact = over_steps()
    single = run(pcd(fraction=0.3, decay=0.9, epsilon=0.1), gradients).directions
    for n in range(gradients.shape[1]):
        average = np.zeros(4)
        for t, rows in enumerate(gradients[:, n]):
            average = 0.9 * average + 0.1 * np.sum(rows**2, axis=1)
            scaled = rows / np.sqrt(average / (1 - 0.9 ** (t + 1)) + 0.1).reshape(-1, 1)
            d = by_definition(scaled[0], scaled[1:], 0.3)
            d *= np.linalg.norm(rows[0]) / np.linalg.norm(d)
            np.testing.assert_allclose(exact[t, n], d, rtol=1e-7, atol=1e-8)
            np.testing.assert_allclose(single[t, n], d, rtol=1e-3, atol=1e-4)


def test_pcd_is_that_of_torchjd() -> None:
    torch = pytest.importorskip("torch")
    aggregation = pytest.importorskip("torchjd.aggregation")
    gradients, exact = over_steps()
    for n in range(gradients.shape[1]):
        aggregator = aggregation.PCD(tau=0.3, beta=0.9, eps=0.1)
        expected = [aggregator(torch.tensor(rows)).numpy() for rows in gradients[:, n]]
        np.testing.assert_allclose(exact[:, n], expected, rtol=1e-7, atol=1e-8)


def test_what_pcd_does_with_conflict() -> None:
    draw = np.random.default_rng(0)
    excluding, agreeing, opposing = draw.standard_normal((3, 3, SIZE))
    excluding[2] = -2 * excluding[1]
    agreeing = np.abs(agreeing)
    opposing[1:] = [-3 * opposing[0], np.zeros(SIZE)]
    result = run(pcd(), np.stack([excluding, agreeing, opposing])[None])
    # No direction gives both g_1 and -2 g_1 their share: main is followed.
    np.testing.assert_array_equal(result.directions[0, 0], excluding[0].astype(np.float32))
    # Every loss has its share already.
    np.testing.assert_allclose(result.weights[0, 1], [1, 0, 0], atol=1e-6)
    # The one direction that gives -3 g_0 its share is along it, at the length of g_0: main rises.
    np.testing.assert_allclose(result.directions[0, 2], -opposing[0], rtol=1e-3)
