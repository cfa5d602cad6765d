"""Intervals that were tried and not chosen, over a batch of samples at once: BCa and the studentised bootstrap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]
Bounds = tuple[Array, Array]


def bca(values: Array, statistic: Callable[..., Array], indices: NDArray[np.int64], level: float = 0.95) -> Bounds:
    """Returns the BCa bounds [...] of samples [..., n] from the resamples `indices` [B, n] (Efron 1987)."""
    n = values.shape[-1]
    value = statistic(values, axis=-1)
    resampled = statistic(values[..., indices], axis=-1)
    below = (np.sum(resampled < value[..., None], -1) + np.sum(resampled <= value[..., None], -1)) / (2 * len(indices))
    left_out = np.stack([np.delete(np.arange(n), i) for i in range(n)])
    jackknife = statistic(values[..., left_out], axis=-1)
    centred = jackknife.mean(-1, keepdims=True) - jackknife
    with np.errstate(divide="ignore", invalid="ignore"):
        acceleration = np.sum(centred**3, -1) / (6 * np.sum(centred**2, -1) ** 1.5)
        bias = special.ndtri(below)
        bounds = []
        for tail in ((1 - level) / 2, (1 + level) / 2):
            z = bias + special.ndtri(tail)
            bounds.append(special.ndtr(bias + z / (1 - acceleration * z)))
    return _quantiles(resampled, bounds[0]), _quantiles(resampled, bounds[1])


def bootstrap_t(values: Array, indices: NDArray[np.int64], level: float = 0.95) -> Bounds:
    """Returns the studentised bootstrap's bounds [...] of the mean of samples [..., n] (Efron & Tibshirani 1993, 12.5).

    A resample with all values equal has no standard error: its t counts as infinite, with the sign of its mean's error.
    """
    n = values.shape[-1]
    mean, error = values.mean(-1), values.std(-1, ddof=1) / np.sqrt(n)
    resampled = values[..., indices]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (resampled.mean(-1) - mean[..., None]) / (resampled.std(-1, ddof=1) / np.sqrt(n))
    t = np.where(np.isnan(t), 0.0, t)
    tails = np.full_like(mean, (1 - level) / 2)
    return mean - error * _quantiles(t, 1 - tails), mean - error * _quantiles(t, tails)


def _quantiles(draws: Array, at: Array) -> Array:
    """Returns the quantile of draws [..., B] at one probability each [...], linear between order statistics."""
    ordered = np.sort(draws, -1)
    place = np.clip(np.nan_to_num(at, nan=0.5), 0, 1) * (draws.shape[-1] - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, draws.shape[-1] - 1)
    first, second = (np.take_along_axis(ordered, i[..., None], -1)[..., 0] for i in (low, high))
    with np.errstate(invalid="ignore"):
        between = first + (place - low) * (second - first)
    return np.where(first == second, first, between)
