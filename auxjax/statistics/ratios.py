"""Ratios of paired positive quantities with intervals, on the log scale."""

from __future__ import annotations

import numpy as np

from auxjax.statistics.intervals import LEVEL, Array, Bounds, around, t_bounds


def geometric_mean_ratio(numerator: Array, denominator: Array, level: float = LEVEL) -> Bounds:
    """Returns exp(mean log(numerator / denominator)) [...] of pairs [..., n], with Student's t interval of the mean."""
    value, low, high = t_bounds(np.log(numerator) - np.log(denominator), level)
    return Bounds(np.exp(value), np.exp(low), _exp(high))


def ratio_of_means(numerator: Array, denominator: Array, level: float = LEVEL) -> Bounds:
    """Returns mean(numerator) / mean(denominator) [...] of pairs [..., n], with an interval by linearisation.

    log(ratio) has the error of the mean of a_i / mean(a) - b_i / mean(b) over pairs (the delta method), and Student's t
    with n - 1 degrees of freedom.
    """
    n = numerator.shape[-1]
    above, below = numerator.mean(-1, keepdims=True), denominator.mean(-1, keepdims=True)
    error = (numerator / above - denominator / below).std(-1, ddof=min(1, n - 1)) / np.sqrt(n)
    value, low, high = around(np.log(above / below)[..., 0], error, n - 1, level)
    return Bounds(np.exp(value), np.exp(low), _exp(high))


def _exp(high: Array) -> Array:
    """Returns exp without overflow: past e^700 a ratio is not bounded."""
    return np.where(high > 700, np.inf, np.exp(np.minimum(high, 700.0)))
