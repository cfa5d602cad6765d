"""How often a run of one arm is better than a run of another, whichever seeds they have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import special

from auxjax.statistics.intervals import LEVEL, Array, Bounds, Estimate, estimate


def probability_of_improvement(baseline: Array, arm: Array, level: float = LEVEL) -> Estimate:
    """Returns P(arm > baseline) + P(equal) / 2 for two runs drawn at random: Mann-Whitney's U / (n m), ties count 1/2.

    Its interval is `wins_bounds`, for unpaired runs: where pairs correlate positively it covers too often.
    """
    return estimate(wins_bounds(np.asarray(baseline, np.float64), np.asarray(arm, np.float64), level), len(arm))


def wins_bounds(baseline: Array, arm: Array, level: float = LEVEL) -> Bounds:
    """Returns the probability [...] that a run of arm [..., m] exceeds one of baseline [..., n], with score bounds.

    The bounds are the P with |U / (n m) - P| = z sqrt(V(P)), method 5 of Newcombe 2006 (Statistics in Medicine 25,
    559-573): V(P) = P (1 - P) (1 + (N - 1) ((1 - P) / (2 - P) + P / (1 + P))) / (n m) with N = (n + m) / 2. They stay
    within 0 and 1, and say something even where every run of one arm exceeds every run of the other.
    """
    size = baseline.shape[-1] * arm.shape[-1]
    half = (baseline.shape[-1] + arm.shape[-1]) / 2 - 1
    gap = np.expand_dims(arm, -1) - np.expand_dims(baseline, -2)
    value = np.asarray((gap > 0).mean((-1, -2)) + (gap == 0).mean((-1, -2)) / 2, np.float64)
    z = special.ndtri((1 + level) / 2)

    def misfit(p: Array) -> Array:
        return (value - p) ** 2 - z**2 * p * (1 - p) * (1 + half * ((1 - p) / (2 - p) + p / (1 + p))) / size

    low, high = _root(misfit, np.zeros_like(value), value), _root(misfit, np.ones_like(value), value)
    return Bounds(value, low, high)


def _root(misfit: Callable[[Array], Array], outside: Array, inside: Array) -> Array:
    """Returns by bisection where `misfit` falls from above 0 at `outside` to 0 or below at `inside`."""
    for _ in range(60):
        middle = (outside + inside) / 2
        beyond = misfit(middle) > 0
        outside, inside = np.where(beyond, middle, outside), np.where(beyond, inside, middle)
    return inside
