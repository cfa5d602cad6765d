"""PCGrad and GradVac against transcriptions of their papers that work on the gradients themselves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.weighting import surgery
from auxjax.weighting.protocol import Signals
from tests.weighting.gramians import Array, families, keys_of, trained

STEPS = 25


def gradients(k: int) -> Array:
    """Returns [T, k, d] with conflicts, among them matrices with zero gradients and badly scaled ones."""
    easy = np.random.default_rng(0).normal(size=(STEPS, k, k + 4))
    hard = families(k, np.float64)
    return np.concatenate([easy, *(hard[name] for name in ("conflicting", "zero_rows", "badly_scaled"))])


def orders_of(count: int, k: int) -> Array:
    """Returns the orders [count, k, k] that the steps of `trained` draw."""
    with jax.enable_x64(True):
        signals = Signals(jnp.asarray(0), jnp.asarray(0.0))
        return np.asarray(jax.vmap(lambda key: surgery.orders(signals._replace(key=key), k))(keys_of(count)))


@pytest.mark.parametrize("k", [2, 4])
def test_pcgrad_is_its_algorithm(k: int) -> None:
    matrices = gradients(k)
    weights, _ = trained(surgery.pcgrad(), matrices, np.ones(matrices.shape[:2]))
    orders = orders_of(len(matrices), k)
    for w, order, g in zip(weights, orders, matrices, strict=True):
        changed = g.copy()
        for i in range(k):
            for j in order[i]:
                if j != i and changed[i] @ g[j] < 0:
                    changed[i] = changed[i] - changed[i] @ g[j] / (g[j] @ g[j]) * g[j]
        np.testing.assert_allclose(w @ g, changed.sum(axis=0), atol=1e-9 * np.abs(g).max())


def test_orders_are_permutations_of_each_gradients_own() -> None:
    orders = orders_of(50, 4)
    np.testing.assert_array_equal(np.sort(orders, axis=2), np.broadcast_to(np.arange(4), orders.shape))
    assert len(np.unique(orders.reshape(-1, 4), axis=0)) == 24


def test_no_conflict_leaves_weights_of_one() -> None:
    matrices = np.abs(gradients(3))
    for weighting in (surgery.pcgrad(), surgery.gradvac(decay=1.0)):
        np.testing.assert_array_equal(trained(weighting, matrices, np.ones(matrices.shape[:2]))[0], 1)


@pytest.mark.parametrize("decay", [0.99, 0.5])
def test_gradvac_is_its_algorithm(decay: float) -> None:
    k, matrices = 3, gradients(3)
    weights, state = trained(surgery.gradvac(decay), matrices, np.ones(matrices.shape[:2]))
    orders, target = orders_of(len(matrices), k), np.zeros((k, k))
    for w, order, g in zip(weights, orders, matrices, strict=True):
        changed, norms = g.copy(), np.linalg.norm(g, axis=1)
        for i in range(k):
            for j in order[i]:
                length = np.linalg.norm(changed[i])
                if j == i or length == 0 or norms[j] == 0:
                    continue
                actual, t = changed[i] @ g[j] / length / norms[j], target[i, j]
                if actual < t:
                    numerator = t * np.sqrt(1 - actual**2) - actual * np.sqrt(1 - t**2)
                    changed[i] = changed[i] + length * numerator / (norms[j] * np.sqrt(1 - t**2)) * g[j]
                    np.testing.assert_allclose(changed[i] @ g[j], t * np.linalg.norm(changed[i]) * norms[j], atol=1e-9)
                target[i, j] = decay * t + (1 - decay) * actual
        np.testing.assert_allclose(w @ g, changed.sum(axis=0), atol=1e-8 * np.abs(g).max())
    np.testing.assert_allclose(state.cosines, target, atol=1e-9)


def test_gradvac_is_torchjds() -> None:
    torch, aggregation = pytest.importorskip("torch"), pytest.importorskip("torchjd.aggregation")
    # Of two gradients there is one order.
    matrices = np.random.default_rng(3).normal(size=(STEPS, 2, 5))
    weights, _ = trained(surgery.gradvac(decay=0.5), matrices, np.ones((STEPS, 2)))
    aggregate = aggregation.GradVac(beta=0.5, eps=0.0)
    for w, g in zip(weights, matrices, strict=True):
        np.testing.assert_allclose(w @ g, aggregate(torch.tensor(g)).numpy(), atol=1e-9)
