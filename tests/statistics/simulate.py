"""Simulated coverage: in what percentage of samples an interval holds the truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from auxjax.statistics.estimates import mean_bounds
from auxjax.statistics.intervals import Bounds, t_bounds, trimmed_bounds
from tests.statistics.populations import Population

Array = NDArray[np.float64]
RESAMPLES = 999  # not the package's 9,999: the same interval with a little more noise, ten times as fast


def covered(bounds: Bounds, truth: float) -> float:
    """Returns the percentage of intervals that hold `truth`."""
    return float(100 * np.mean((bounds.low <= truth) & (truth <= bounds.high)))


def noise(samples: int, percent: float = 95.0) -> float:
    """Returns four standard errors of a simulated percentage: one correct test in 16,000 is further off."""
    return float(4 * np.sqrt(percent * (100 - percent) / samples))


def in_parts(bounds: Callable[[Array], Bounds], values: Array, parts: int = 20) -> Bounds:
    """Returns `bounds(values)` [R] of samples [R, n], a part of the samples at a time for memory's sake."""
    found = [bounds(part) for part in np.array_split(values, parts)]
    return Bounds(*(np.concatenate(column) for column in zip(*found, strict=True)))


def coverage(population: Population, n: int, samples: int) -> dict[str, float]:
    """Returns the coverage of the default intervals, and of Student's, from `samples` samples of n runs."""
    values = population.draw(np.random.default_rng(n), (samples, n))
    middle = population.interquartile_mean
    return {
        "mean": covered(in_parts(lambda part: mean_bounds(part, resamples=RESAMPLES), values), population.mean),
        "Student's": covered(t_bounds(values), population.mean),
        "interquartile mean": covered(trimmed_bounds(values), middle),
    }
