"""The sign-flip test of paired differences: what chance does when baseline and arm may be exchanged in each pair."""

from __future__ import annotations

import numpy as np

from auxjax.statistics.intervals import Array

# Up to here all 2^(n - 1) patterns of signs are tried; beyond, RESAMPLES random ones from a fixed seed.
EXACT = 15
RESAMPLES = 9999
FEWEST = 5  # pairs below which no p-value is given


def sign_flip_p(differences: Array) -> Array:
    """Returns the two-sided p-values [...] of differences [..., n]: how often |sum of +-d| is at least |sum of d|.

    Exact for n <= 15, where the smallest is 2^(1 - n). Beyond, (hits + 1) / (draws + 1) over 9,999 random patterns, so
    that the test keeps its level (Phipson & Smyth 2010). Sums that differ by rounding alone count as equal.
    """
    n = differences.shape[-1]
    sums = np.abs(differences @ _signs(n))
    observed = np.abs(differences.sum(-1, keepdims=True))
    slack = 1e-12 * np.abs(differences).sum(-1, keepdims=True)
    hits = np.sum(sums >= observed - slack, -1)
    return np.asarray(hits / sums.shape[-1] if n <= EXACT else (hits + 1) / (RESAMPLES + 1), np.float64)


def smallest_p(n: int) -> float:
    """Returns the least p-value that n pairs can give: all differences in one direction."""
    return 2.0 ** (1 - n) if n <= EXACT else 1 / (RESAMPLES + 1)


def _signs(n: int) -> Array:
    """Returns patterns of signs [n, patterns]; the first sign stays +, as turning all of them changes no |sum|."""
    if n > EXACT:
        return np.random.default_rng(0).choice([-1.0, 1.0], (n, RESAMPLES))
    patterns = np.arange(2 ** (n - 1)).reshape(1, -1) >> np.arange(n).reshape(-1, 1)
    return np.where(patterns & 1, -1.0, 1.0)
