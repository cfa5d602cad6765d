"""What several runs of one arm say: their mean, their interquartile mean, and any statistic by bootstrap.

Which interval is the default is the outcome of a simulation (tests/statistics/test_coverage.py holds it to this): the
coverage of 95 % intervals, in percent, over 20,000 samples a cell (BCa: 4,000).

    runs                            3      4      5     10     20
    mean, the default
      normal                       94.9   94.6   94.7   94.7   95.0
      lognormal, sigma 0.5         92.6   93.3   93.4   93.7   94.1
      Student t, 5 degrees         96.1   94.8   94.5   93.0   93.4
      beta(90, 10)                 94.8   94.3   94.7   94.4   95.2
      beta(8, 1)                   89.8   92.7   93.4   94.5   95.2
      one in ten collapsed         26.4   34.6   41.2   65.3   86.5
    mean, Student's t
      normal                       94.9   95.2   95.1   95.2   95.1
      lognormal, sigma 0.5         92.6   92.2   91.6   92.5   93.0
      Student t, 5 degrees         96.1   95.5   95.7   95.3   95.1
      beta(90, 10)                 94.8   94.6   94.5   94.5   94.9
      beta(8, 1)                   89.8   89.6   90.0   91.7   93.1
      one in ten collapsed         26.4   34.6   41.2   65.3   87.3
    mean, BCa
      normal                       72.0   79.5   84.5   89.6   92.3
      lognormal, sigma 0.5         69.8   77.9   82.0   87.8   91.1
      Student t, 5 degrees         72.0   78.8   82.2   88.4   91.1
      beta(90, 10)                 72.4   80.3   83.2   89.7   92.7
      beta(8, 1)                   70.2   78.1   81.5   88.1   92.6
      one in ten collapsed         25.9   34.1   41.2   62.5   85.8
    interquartile mean
      normal                       94.9   93.6   93.8   94.4   94.3
      lognormal, sigma 0.5         94.5   93.4   93.2   93.8   94.0
      Student t, 5 degrees         96.1   93.9   94.4   94.7   94.5
      beta(90, 10)                 95.1   93.5   93.5   94.2   94.2
      beta(8, 1)                   92.8   92.6   91.8   93.2   93.5
      one in ten collapsed         95.9   93.9   94.5   95.2   94.8

The default for the mean is within 93 to 97 % from five runs on, except where one run in ten collapses: five runs are
all well in 59 % of cases, and no interval can know of what no run has shown. There the interquartile mean keeps its
word. With three runs nothing here does for skewed results: Student's t falls to 90 %, and the bootstrap is as wide as
its cap. The interquartile mean keeps within 93 to 97 % but for results pressed against their bound (beta(8, 1)), 92 %.
At five runs the default is 1.3 times as wide as Student's, at ten 1.04 times. Differences of pairs are nearly symmetric
and keep Student's t (`pairs`): 94 to 97 % for differences of two runs of one of these populations, and up to 98.5 %
where one in ten collapses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from auxjax.statistics.intervals import LEVEL, Array, Bounds, Estimate, estimate, t_bounds, trimmed_bounds
from auxjax.statistics.studentised import RESAMPLES, studentised_bounds


def mean(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Returns the mean over runs with its interval: the studentised bootstrap's from four runs on, else Student's t."""
    return estimate(mean_bounds(np.asarray(values, np.float64), level), len(values))


def mean_bounds(values: Array, level: float = LEVEL, resamples: int = RESAMPLES) -> Bounds:
    """Returns the means [...] of samples [..., n] with the intervals of `mean`."""
    return studentised_bounds(values, level, resamples) if values.shape[-1] >= 4 else t_bounds(values, level)


def interquartile_mean(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Returns the mean of the middle half of the runs, int(n / 4) dropped at each end, with its trimmed-t interval."""
    return estimate(trimmed_bounds(np.asarray(values, np.float64), level), len(values))


def bootstrap(
    values: Sequence[float],
    statistic: Callable[..., Any] = np.mean,
    level: float = LEVEL,
    *,
    resamples: int = 9999,
    seed: int = 0,
) -> Estimate:
    """Returns `statistic(values, axis=...)` with SciPy's BCa bootstrap interval (Efron 1987) from a fixed seed.

    For statistics that have no formula, and from 20 runs on: at 5 runs its 95 % interval covers in 80 to 90 % of cases.
    Where all runs are equal the interval is that value alone; where there is one run, everything; where BCa is
    undefined (leaving out any one run changes nothing, as with some medians), it is the percentile interval.
    """
    from scipy import stats

    runs = np.asarray(values, np.float64)
    value = float(statistic(runs, axis=-1))
    if len(runs) < 2:
        return Estimate(value, -np.inf, np.inf, len(runs))
    if np.ptp(runs) == 0:
        return Estimate(value, value, value, len(runs))
    left_out = np.stack([np.delete(runs, i) for i in range(len(runs))])
    method = "percentile" if np.ptp(statistic(left_out, axis=-1)) == 0 else "BCa"
    found = stats.bootstrap(
        (runs,), statistic, confidence_level=level, n_resamples=resamples, vectorized=True, method=method,
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Estimate(value, float(found.low), float(found.high), len(runs))
