"""How much wider than pointwise a band must be to hold a whole mean curve: the Gaussian kinematic formula."""

from __future__ import annotations

import numpy as np
from scipy import special

from auxjax.statistics.intervals import LEVEL, Array


def simultaneous_factor(values: Array, level: float = LEVEL) -> Array:
    """Returns c / t [...] for runs' curves [..., n, T]: t is the pointwise quantile, c that of max over steps of |t|.

    c solves 2 (P(t > c) + L / (2 pi) (1 + c^2 / (n - 1))^(1 - n / 2)) = 1 - level, the expected Euler characteristic of
    the steps where a t process exceeds c; L is the length of the path that the runs' residuals, scaled to a unit vector
    at each step, draw over the steps (Telschow & Schwartzman 2022, section 3.3; sums for integrals). Where
    Bonferroni's c over T steps is smaller it is taken, as it is for curves that jump from step to step. No resampling:
    the same curves always give the same band, and at five runs it holds where a bootstrap, which has five residuals to
    draw from, does not (tests/statistics/test_curves.py).
    """
    n, size = values.shape[-2:]
    if n < 2:
        return np.ones(values.shape[:-2])
    degrees, alpha = n - 1, 1 - level
    residuals = values - values.mean(-2, keepdims=True)
    norm = np.sqrt(np.sum(residuals**2, -2, keepdims=True))
    unit = np.divide(residuals, norm, out=np.zeros_like(residuals), where=norm > 0)
    turn = np.sqrt(np.sum(np.diff(unit, axis=-1) ** 2, -2))
    both = (norm[..., 0, 1:] > 0) & (norm[..., 0, :-1] > 0)
    length = np.sum(turn * both, -1)
    low = np.full_like(length, special.stdtrit(degrees, 1 - alpha / 2))
    high = np.full_like(length, special.stdtrit(degrees, 1 - alpha / (2 * size)))
    pointwise = low
    for _ in range(60):
        c = (low + high) / 2
        density = (1 + c**2 / degrees) ** (-(degrees - 1) / 2) / (2 * np.pi)
        exceeds = 2 * (special.stdtr(degrees, -c) + length * density) > alpha
        low, high = np.where(exceeds, c, low), np.where(exceeds, high, c)
    return np.asarray(high / pointwise, np.float64)
