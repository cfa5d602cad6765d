"""Gradient matrices that weightings have to survive, and what weightings of their Gramians make of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import nnls

from auxjax.weighting.protocol import Signals, Weighting

Array = np.ndarray[Any, Any]

SIZES = (1, 2, 3, 5, 16)


def families(k: int, dtype: Any = np.float32, count: int = 4) -> dict[str, Array]:
    """Returns gradient matrices J [count, k, k + 4] by name, main in row 0, of every kind that training may meet.

    "random", "conflicting" (every pair of rows has a negative product), "parallel" (within 1e-3 of one another),
    "opposed" (the same, with alternating signs), "rank_deficient" (rank at most 2), "zero_rows" (some rows, main's in
    the first matrix), "zero", and "badly_scaled" (norms from 1e-4 to 1e4, so that those of the Gramian differ by 1e16).
    """
    rng = np.random.default_rng(k)
    d = k + 4
    random = rng.normal(size=(count, k, d))
    common = rng.normal(size=(count, 1, d))
    # Unit rows whose sum is nearly 0: any two have a product near -1 / (k - 1).
    orthogonal = np.stack([np.linalg.qr(rng.normal(size=(d, k)))[0].T for _ in range(count)])
    simplex = orthogonal - 0.95 * orthogonal.mean(1, keepdims=True) if k > 1 else orthogonal
    parallel = common + 1e-3 * random
    signs = np.where(np.arange(k) % 2, -1.0, 1.0).reshape(1, k, 1)
    low_rank = rng.normal(size=(count, k, min(k, 2))) @ rng.normal(size=(count, min(k, 2), d))
    zero_rows = random.copy()
    zero_rows[0, 0] = 0.0
    zero_rows[1:, -1] = 0.0 if k > 1 else zero_rows[1:, -1]
    scales = np.logspace(-4, 4, k) if k > 1 else np.ones(1)
    shuffled = np.stack([rng.permutation(scales) for _ in range(count)]).reshape(count, k, 1)
    return {
        name: np.asarray(matrices, dtype)
        for name, matrices in {
            "random": random,
            "conflicting": simplex * rng.uniform(0.5, 2.0, size=(count, k, 1)),
            "parallel": parallel,
            "opposed": signs * parallel,
            "rank_deficient": low_rank,
            "zero_rows": zero_rows,
            "zero": np.zeros_like(random),
            "badly_scaled": random * shuffled,
        }.items()
    }


def losses_of(k: int) -> Array:
    """Returns the losses [K] that accompany all Gramians."""
    return np.linspace(0.5, 2.0, k)


def decided(weighting: Weighting, matrices: Array, dtype: Any = np.float64) -> Array:
    """Returns the first weights [N, K] for gradient matrices [N, K, d], in one compiled program."""
    count, k, _ = matrices.shape

    def one(products: jax.Array, key: jax.Array) -> jax.Array:
        losses = jnp.asarray(losses_of(k), dtype)
        signals = Signals(jnp.asarray(0), jnp.asarray(0.0, dtype), key, losses=losses, gramian=products)
        state = weighting.init(tuple(f"loss{i}" for i in range(k)), {})
        update, new = weighting.update(signals, state)
        assert update.direction is None
        assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
        return update.weights

    with jax.enable_x64(dtype == np.float64):
        products = np.asarray(matrices @ matrices.transpose(0, 2, 1), dtype)
        weights = jax.jit(jax.vmap(one))(products, keys_of(count))
        assert weights.dtype == dtype
        return np.asarray(weights, np.float64)


def directions(weights: Array, matrices: Array) -> Array:
    """Returns sum_k w_k g_k, [N, d]."""
    return np.asarray(np.einsum("nk,nkd->nd", weights, matrices))


def trained(weighting: Weighting, matrices: Array, losses: Array) -> tuple[Array, Any]:
    """Returns the weights [T, K] and the last state of T steps on gradients [T, K, d] and losses [T, K], in float64."""

    def step(state: Any, inputs: Any) -> tuple[Any, jax.Array]:
        products, losses, key = inputs
        signals = Signals(jnp.asarray(0), jnp.asarray(0.0), key, losses=losses, gramian=products)
        update, state = weighting.update(signals, state)
        return state, update.weights

    with jax.enable_x64(True):
        inputs = (jnp.asarray(matrices @ matrices.transpose(0, 2, 1)), jnp.asarray(losses), keys_of(len(matrices)))
        start = weighting.init(tuple(f"loss{i}" for i in range(matrices.shape[1])), {})
        state, weights = jax.jit(lambda state, inputs: jax.lax.scan(step, state, inputs))(start, inputs)
        return np.asarray(weights), jax.tree.map(np.asarray, state)


def keys_of(count: int) -> jax.Array:
    """Returns the keys [count] of the Gramians, in order."""
    return jax.random.split(jax.random.key(0), count)


def shortest_in_hull(matrix: Array) -> Array:
    """Returns the shortest vector of the rows' convex hull, from least squares with one coordinate more."""
    norms = np.linalg.norm(matrix, axis=1)
    if norms.min() == 0:
        return np.zeros(matrix.shape[1])
    lifted = np.concatenate([matrix.T, np.full((1, len(matrix)), norms.min())]) / norms
    weights = nnls(lifted, np.eye(len(lifted))[-1], maxiter=10_000)[0] / norms
    return np.asarray(weights @ matrix / weights.sum())
