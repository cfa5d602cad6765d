"""Populations of a run's result with their means and interquartile means, for simulations of coverage."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]


class Population(NamedTuple):
    """`draw(random, shape)` gives results; `mean` is known, and `quantile` gives the interquartile mean."""

    draw: Callable[[np.random.Generator, tuple[int, ...]], Array]
    mean: float
    quantile: Callable[[Array], Array]

    @property
    def interquartile_mean(self) -> float:
        """The mean of the middle half, by the midpoint rule over the quantiles from 1/4 to 3/4."""
        return float(np.mean(self.quantile(0.25 + 0.5 * (np.arange(20_000) + 0.5) / 20_000)))


COLLAPSED, WELL, SPREAD = 0.1, 0.9, 0.01  # one run in ten stays at chance


def _draw_mixture(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    good = WELL + SPREAD * random.standard_normal(shape)
    return np.where(random.random(shape) < 0.1, COLLAPSED, good)


POPULATIONS = {
    "normal": Population(lambda random, shape: random.standard_normal(shape), 0.0, stats.norm.ppf),
    "lognormal, sigma 0.5": Population(
        lambda random, shape: np.exp(0.5 * random.standard_normal(shape)),
        float(np.exp(0.125)),
        stats.lognorm(0.5).ppf,
    ),
    "Student t, 5 degrees": Population(lambda random, shape: random.standard_t(5, shape), 0.0, stats.t(5).ppf),
    "beta(90, 10)": Population(lambda random, shape: random.beta(90, 10, shape), 0.9, stats.beta(90, 10).ppf),
    "beta(8, 1)": Population(lambda random, shape: random.beta(8, 1, shape), 8 / 9, stats.beta(8, 1).ppf),
    "one in ten collapsed": Population(
        _draw_mixture,
        0.9 * WELL + 0.1 * COLLAPSED,
        lambda q: WELL + SPREAD * stats.norm.ppf((q - 0.1) / 0.9),
    ),
}
