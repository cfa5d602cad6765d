"""Learning curves: of one run, of several on common steps, their mean with bands, area, and steps to a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from auxjax.errors import AuxjaxError
from auxjax.statistics.bands import simultaneous_factor
from auxjax.statistics.intervals import LEVEL, Array, t_bounds

Curve = tuple[NDArray[Any], Array]


class Band(NamedTuple):
    """A mean curve over steps [T]; `low` and `high` hold for all steps at once, the pointwise ones for each."""

    steps: NDArray[Any]
    mean: Array
    low: Array
    high: Array
    pointwise_low: Array
    pointwise_high: Array
    n: int


def curve(history: Sequence[Mapping[str, Any]], split: str, metric: str) -> Curve:
    """Returns the steps and the values of one metric on one split of a run's history."""
    records = [record for record in history if record["split"] == split and metric in record]
    return np.array([r["step"] for r in records]), np.array([r[metric] for r in records], np.float64)


def steps_to_target(history: Sequence[Mapping[str, Any]], split: str, metric: str, target: float) -> int | None:
    """Returns the first evaluated step at which `metric` reached `target`; None (censored) where it never did."""
    steps, values = curve(history, split, metric)
    reached = np.flatnonzero(values >= target)
    return int(steps[reached[0]]) if reached.size else None


def align(curves: Sequence[Curve]) -> tuple[NDArray[Any], Array]:
    """Returns the steps [T] at which every run was evaluated and its values there [n, T].

    Raises AuxjaxError where there is no run, or the runs have no step in common.
    """
    if not curves:
        raise AuxjaxError("no curve to align: give at least one run")
    common = sorted(set.intersection(*({int(step) for step in steps} for steps, _ in curves)))
    if not common:
        raise AuxjaxError("the runs were evaluated at no common step: evaluate them at the same steps")
    rows = [dict(zip(steps.tolist(), values.tolist(), strict=True)) for steps, values in curves]
    return np.array(common), np.array([[row[step] for step in common] for row in rows], np.float64)


def mean_curve(curves: Sequence[Curve], level: float = LEVEL) -> Band:
    """Returns the mean over runs on their common steps, with a band for the whole curve and a pointwise one.

    Both are mean -+ c s / sqrt(n): pointwise c is Student's t quantile, simultaneously `bands.simultaneous_factor`.
    """
    steps, values = align(curves)
    pointwise, factor = t_bounds(values.T, level), float(simultaneous_factor(values, level))
    reach = factor * (pointwise.high - pointwise.value) if len(values) > 1 else np.full(len(steps), np.inf)
    mean = pointwise.value
    return Band(steps, mean, mean - reach, mean + reach, pointwise.low, pointwise.high, len(values))


def area(steps: NDArray[Any], values: Array) -> Array:
    """Returns the area under curves [..., T] over steps [T] over its width, by trapezoids: the mean height.

    Raises AuxjaxError where there are fewer than two steps.
    """
    if len(steps) < 2:
        raise AuxjaxError(f"an area needs two evaluations or more, not {len(steps)}: evaluate more often")
    return np.asarray(np.trapezoid(values, steps, axis=-1) / (steps[-1] - steps[0]), np.float64)
