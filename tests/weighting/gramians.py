"""Gradient matrices that weightings have to survive: ordinary ones, and those on which solvers break."""

from __future__ import annotations

from typing import Any

import numpy as np

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
