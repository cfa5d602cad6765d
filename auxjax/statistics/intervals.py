"""An estimate with its interval, and the intervals that have a formula: Student's and the trimmed t."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]
LEVEL = 0.95
Better = Literal["higher", "lower"]


class Estimate(NamedTuple):
    """A value with the bounds of its interval, and how many runs it rests on; one run bounds nothing: -inf and inf."""

    value: float
    low: float
    high: float
    n: int


class Bounds(NamedTuple):
    """The same for many samples at once: float64 arrays of one shape."""

    value: Array
    low: Array
    high: Array


def t_bounds(values: Array, level: float = LEVEL) -> Bounds:
    """Returns the means [...] of samples [..., n] with Student's t intervals: mean -+ t(n - 1) s / sqrt(n)."""
    n = values.shape[-1]
    return around(values.mean(-1), values.std(-1, ddof=min(1, n - 1)) / np.sqrt(n), n - 1, level)


def trimmed_bounds(values: Array, level: float = LEVEL) -> Bounds:
    """Returns the interquartile means [...] of samples [..., n] with the intervals of Tukey & McLaughlin 1963.

    g = int(n / 4) runs are dropped at each end, h = n - 2 g are left; the standard error is that of Yuen 1974,
    sqrt((n - 1) s_w^2 / (h (h - 1))) with the winsorised variance s_w^2, and t has h - 1 degrees of freedom. Under four
    runs nothing is dropped and this is Student's t.
    """
    n = values.shape[-1]
    g = n // 4
    h, ordered = n - 2 * g, np.sort(values, -1)
    winsorised = np.clip(ordered, ordered[..., g : g + 1], ordered[..., n - g - 1 : n - g])
    error = np.sqrt((n - 1) * winsorised.var(-1, ddof=min(1, n - 1)) / max(1, h * (h - 1)))
    return around(ordered[..., g : n - g].mean(-1), error, h - 1, level)


def around(value: Array, error: Array, degrees: float, level: float = LEVEL) -> Bounds:
    """Returns value -+ t error with Student's t of `degrees` of freedom; everything where there are none."""
    value = np.asarray(value, np.float64)
    if degrees < 1:
        return Bounds(value, np.full_like(value, -np.inf), np.full_like(value, np.inf))
    reach = special.stdtrit(degrees, (1 + level) / 2) * error
    return Bounds(value, value - reach, value + reach)


def estimate(bounds: Bounds, n: int) -> Estimate:
    """Returns one sample's bounds as an Estimate of Python floats."""
    return Estimate(float(bounds.value), float(bounds.low), float(bounds.high), n)
