"""MoDo and SDMGrad against NumPy transcriptions and TorchJD, on the inner products of two successive samples."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.weighting import stochastic
from tests.weighting.auxiliary_gradients import Array, steps
from tests.weighting.rollouts import roll, roll_hard
from tests.weighting.test_tracked import projected

STEPS = 30
GRADIENTS = steps(3, count=STEPS, runs=1)[:, 0] + 2.0


def products() -> list[Array]:
    """A of every step: the gradients of this one times those of the last, of which there is none at first."""
    before = np.concatenate([np.zeros_like(GRADIENTS[:1]), GRADIENTS[:-1]])
    return [g @ b.T for g, b in zip(GRADIENTS, before, strict=True)]


def test_modo_over_many_steps() -> None:
    result = roll(stochastic.modo(0.01, 0.2), GRADIENTS)
    w = np.full(3, 1 / 3)
    for t, matrix in enumerate(products()):
        w = projected(w - 0.01 * (matrix @ w + 0.2 * w))
        np.testing.assert_allclose(result.weights[t], w, atol=1e-10)
        np.testing.assert_allclose(result.directions[t], w @ GRADIENTS[t], atol=1e-9)
    assert np.ptp(result.weights, axis=0).max() > 0.1


def test_sdmgrad_over_many_steps() -> None:
    result = roll(stochastic.sdmgrad(0.4, 0.05, 0.5, iterations=7), GRADIENTS)
    w = np.full(3, 1 / 3)
    for t, matrix in enumerate(products()):
        scale = np.sqrt(np.maximum(np.diag(matrix), 0)).mean() ** 2
        relative = matrix / max(scale, 1e-6 * np.abs(matrix).max()) if t else 0 * matrix
        velocity = np.zeros(3)
        for _ in range(7):
            velocity = 0.5 * velocity + relative @ (w + 0.4 / 3)
            w = projected(w - 0.05 * velocity)
        np.testing.assert_allclose(result.weights[t], (w + 0.4 / 3) / 1.4, atol=1e-9)
    assert np.ptp(result.weights, axis=0).max() > 0.1


@pytest.mark.parametrize("name", ["MoDo", "SDMGrad"])
def test_the_weights_are_those_of_torchjd(name: str) -> None:
    torch = pytest.importorskip("torch")
    aggregation = pytest.importorskip("torchjd.aggregation")
    if name == "MoDo":
        ours, theirs = stochastic.modo(0.1, 0.1), aggregation.MoDoWeighting(gamma=0.1, rho=0.1)
    else:
        ours, theirs = stochastic.sdmgrad(), aggregation.SDMGradWeighting()
    weights = roll(ours, GRADIENTS).weights
    expected = np.stack([theirs(torch.tensor(matrix)).numpy() for matrix in products()])
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    assert np.ptp(weights, axis=0).max() > 0.1


@pytest.mark.parametrize("make", [stochastic.modo, stochastic.sdmgrad])
def test_hard_gradients_in_single_precision(make: Any) -> None:
    for count in (1, 4):
        hard, result = roll_hard(make(), count)
        np.testing.assert_allclose(result.weights.sum(axis=1), 1, rtol=1e-5)
        assert np.all(result.weights >= 0)
        if count == 1:
            np.testing.assert_array_equal(result.directions, hard[:, 0].astype(np.float32))


def test_the_state_holds_the_gradients_of_the_last_step() -> None:
    held = roll(stochastic.modo(), GRADIENTS).states.gradients
    for k in range(3):
        rows = np.concatenate([x.reshape(STEPS, -1) for x in jax.tree.leaves(held[k])], axis=1)
        np.testing.assert_array_equal(rows, GRADIENTS[:, k])


def test_no_iterations_is_an_error() -> None:
    with pytest.raises(AuxjaxError, match="iterations of sdmgrad"):
        stochastic.sdmgrad(iterations=0)
