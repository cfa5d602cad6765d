"""GradNorm against a transcription of its algorithm, and what it is for."""

from __future__ import annotations

import numpy as np

from auxjax.weighting.gradnorm import gradnorm
from tests.weighting.gramians import trained

STEPS = 50


def test_gradnorm_is_its_algorithm() -> None:
    k, alpha, rate = 4, 1.5, 0.05
    draw = np.random.default_rng(5)
    matrices = draw.normal(size=(STEPS, k, 6)) * np.array([1e-3, 1.0, 3.0, 0.0]).reshape(1, k, 1)
    losses = draw.uniform(0.1, 3.0, size=(STEPS, k))
    weights, state = trained(gradnorm(alpha, rate), matrices, losses)
    w, mean, square = np.ones(k), np.zeros(k), np.zeros(k)
    for step, (found, g, loss) in enumerate(zip(weights, matrices, losses, strict=True), start=1):
        np.testing.assert_allclose(found, w, rtol=1e-7)
        norms, speeds = np.linalg.norm(g, axis=1), loss / losses[0]
        slope = norms * np.sign(w * norms - np.mean(w * norms) * (speeds / speeds.mean()) ** alpha)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        w = w - rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        w = np.maximum(w, 1e-3)
        w = k * w / w.sum()
    np.testing.assert_allclose(state.weights, w, rtol=1e-7)
    np.testing.assert_allclose(weights.sum(axis=1), k)


def test_gradnorm_evens_out_the_gradients() -> None:
    norms = np.array([0.3, 1.0, 4.0])
    matrices = np.broadcast_to(np.diag(norms), (400, 3, 3))
    weights, _ = trained(gradnorm(), matrices, np.ones((400, 3)))
    products = weights[-100:].mean(axis=0) * norms
    np.testing.assert_allclose(products / products.mean(), 1, atol=0.15)
