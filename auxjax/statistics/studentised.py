"""The studentised bootstrap of a mean: Student's interval with quantiles that follow the sample's own skewness."""

from __future__ import annotations

import functools

import numpy as np
from scipy import special

from auxjax.statistics.intervals import LEVEL, Array, Bounds

RESAMPLES = 9999
# A bound lies at most this many times as far from the mean as Student's. Of few runs with ties some resamples are all
# equal, and the quantile is infinite; the cap costs under half a percent of coverage at five runs.
FARTHEST = 2.0


def studentised_bounds(values: Array, level: float = LEVEL, resamples: int = RESAMPLES) -> Bounds:
    """Returns means [...] of samples [..., n] with (mean - q_high s / sqrt(n), mean - q_low s / sqrt(n)).

    q are the quantiles of (mean* - mean) sqrt(n) / s* over resamples from a fixed seed (Efron & Tibshirani 1993,
    section 12.5), which are kept within twice Student's. n is at least 2.
    """
    n = values.shape[-1]
    share = _shares(n, resamples)
    value = values.mean(-1)
    centred = values - value[..., None]
    moved = centred @ share
    variance = np.maximum((centred**2) @ share - moved**2, 0.0) * n / (n - 1)
    cap = FARTHEST * special.stdtrit(n - 1, (1 + level) / 2)
    error = np.sqrt(variance / n)
    t = np.clip(np.divide(moved, error, out=cap * np.sign(moved), where=error > 0), -cap, cap)
    low, high = np.quantile(t, [(1 - level) / 2, (1 + level) / 2], axis=-1)
    scale = values.std(-1, ddof=1) / np.sqrt(n)
    return Bounds(value, value - high * scale, value - low * scale)


@functools.lru_cache(maxsize=16)
def _shares(n: int, resamples: int) -> Array:
    """Returns which share of each resample every run makes up [n, resamples]; kept, as a report asks for many means."""
    drawn = np.random.default_rng(0).integers(0, n, (resamples, n))
    shares = np.stack([np.mean(drawn == run, axis=-1) for run in range(n)])
    shares.setflags(write=False)
    return shares
