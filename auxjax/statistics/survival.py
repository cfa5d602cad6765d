"""Time to a target over runs, of which some never reach it: Kaplan-Meier's curve, its median, the restricted mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from auxjax.errors import AuxjaxError
from auxjax.statistics.curves import curve
from auxjax.statistics.estimates import mean_bounds
from auxjax.statistics.intervals import LEVEL, Array, Better, Estimate


class TimeToTarget(NamedTuple):
    """When a run was first seen at the target, or, with `reached` False, when it was last seen short of it (censored).

    The target was reached after `after`, the evaluation before, and no later than `time`. The unit is the caller's.
    """

    time: float
    reached: bool
    after: float = 0.0


class Survival(NamedTuple):
    """Kaplan-Meier's curve: just after each time at which a run reached the target, the share that has not [k].

    `low` and `high` are pointwise log-log bounds; `at_risk` and `reached` count the runs behind each step down.
    """

    time: Array
    share: Array
    low: Array
    high: Array
    at_risk: Array
    reached: Array


class MedianTime(NamedTuple):
    """The time by which half of the runs are there, with bounds; None is later than all runs were watched."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    reached: int
    resolution: float


def time_to_target(
    history: Sequence[Mapping[str, Any]], split: str, metric: str, target: float, *, better: Better = "higher",
    per_step: float = 1.0,
) -> TimeToTarget:  # fmt: skip
    """Returns when a run's metric was first seen at `target` or better, in steps times `per_step` (seconds, FLOPs).

    Raises AuxjaxError where the history has no such metric on that split.
    """
    steps, values = curve(history, split, metric)
    if not len(steps):
        raise AuxjaxError(f"no {metric!r} on the {split} split in this run: evaluate it, or choose another metric")
    there = np.flatnonzero(values >= target if better == "higher" else values <= target)
    last = int(there[0]) if there.size else len(steps) - 1
    after = float(steps[last - 1]) if last else 0.0
    return TimeToTarget(float(steps[last]) * per_step, bool(there.size), after * per_step)


def kaplan_meier(runs: Sequence[TimeToTarget], level: float = LEVEL) -> Survival:
    """Returns the share of runs that have not reached the target over time, prod (1 - d_i / r_i) (Kaplan & Meier 1958).

    Its bounds are share^exp(-+z e), where e = sqrt(Greenwood's sum d / (r (r - d))) / |log share|; where the share is 0
    they are 0 and the last step's upper bound. A run censored at the time of another's arrival counts as at risk then.
    Raises AuxjaxError where there is no run.
    """
    times, reached = _arrays(runs)
    at, at_risk, arrived = _steps_down(times, reached)
    share = np.cumprod(1 - arrived / at_risk)
    inside = share > 0
    safe = np.where(inside, share, 0.5)
    left = np.where(inside, at_risk - arrived, 1.0)
    error = np.sqrt(np.cumsum(arrived / (at_risk * left))) / np.abs(np.log(safe))
    z = special.ndtri((1 + level) / 2)
    low, high = (np.where(inside, safe ** np.exp(sign * z * error), 0.0) for sign in (1, -1))
    if len(at) and not inside[-1]:
        high[-1] = high[-2] if len(at) > 1 else 1.0
    return Survival(at, np.asarray(share, np.float64), low, high, at_risk, arrived)


def median_time(runs: Sequence[TimeToTarget], level: float = LEVEL) -> MedianTime:
    """Returns the first time at which Kaplan-Meier's share is at most 1/2 (None: never), with bounds from order.

    With r_1 <= ... <= r_n the runs' times, censored ones last among equals, the true median lies between r_(k+1) and
    r_(n-k) in 1 - 2 P(Binomial(n, 1/2) <= k) of cases whatever the distribution, if all runs are watched equally long;
    k is the largest for which that is at least `level`, or 0: five runs from first to last give 93.75 %, four
    87.5 %, three 75 %. The bound is None where that run is censored, and beyond. Runs censored earlier than the last
    arrival make the bounds approximate.
    """
    times, reached = _arrays(runs)
    km = kaplan_meier(runs, level)
    below = np.flatnonzero(km.share <= 0.5 + 1e-12)
    n = len(times)
    order = np.lexsort((times, ~reached))
    places = np.arange((n + 1) // 2)
    covers = 1 - 2 * special.bdtr(places, n, 0.5)
    k = int(places[covers >= level][-1]) if np.any(covers >= level) else 0
    first, last = (_seen(order[place], times, reached) for place in (k, n - 1 - k))
    value = float(km.time[below[0]]) if below.size else None
    return MedianTime(value, first, last, n, int(reached.sum()), resolution(runs))


def restricted_mean(runs: Sequence[TimeToTarget], horizon: float, level: float = LEVEL) -> Estimate:
    """Returns the mean of min(time, horizon): the area under Kaplan-Meier's curve up to the horizon.

    Its interval is that of `mean` over the runs' pseudo-observations n A - (n - 1) A_i, where A_i is the area without
    run i (Andersen, Hansen & Klein 2004); of a run watched to the horizon, if all are, that is min(time, horizon)
    itself. Where few runs, or nearly all, arrive, it is widened to what Clopper & Pearson's bounds on the share of
    arrivals allow if each saves as much as those seen; where none does, as if each saved everything. It is cut at 0 and
    the horizon. Raises AuxjaxError where the horizon is past the last time at which a run was watched.
    """
    times, reached = _arrays(runs)
    n, arrived = len(times), int(np.sum(reached & (times < horizon)))
    if horizon > times.max() and not reached[times == times.max()].all():
        raise AuxjaxError(f"horizon {horizon:g} is past the last evaluation {times.max():g}: choose an earlier horizon")
    value = _area(times, reached, horizon)
    if n < 2:
        return Estimate(value, 0.0, float(horizon), n)
    others = [_area(np.delete(times, i), np.delete(reached, i), horizon) for i in range(n)]
    pseudo = n * value - (n - 1) * np.array(others)
    bounds, tail = mean_bounds(pseudo, level), (1 - level) / 2
    most = special.betaincinv(arrived + 1, n - arrived, 1 - tail) if arrived < n else 1.0
    least = special.betaincinv(arrived, n - arrived + 1, tail) if arrived else 0.0
    saved = (horizon - value) * n / arrived if arrived else horizon
    shift = value - float(bounds.value)
    low, high = float(bounds.low) + shift, float(bounds.high) + shift
    if arrived < n:
        low, high = min(low, horizon - most * saved), max(high, horizon - least * saved)
    return Estimate(value, max(low, 0.0), min(high, float(horizon)), n)


def _area(times: Array, reached: NDArray[np.bool_], horizon: float) -> float:
    """Returns the area under Kaplan-Meier's curve up to the horizon; past the last run it goes on as it was."""
    at, at_risk, arrived = _steps_down(times, reached)
    within = at < horizon
    share = np.concatenate([[1.0], np.cumprod(1 - arrived / at_risk)[within]])
    return float(np.sum(share * np.diff(np.concatenate([[0.0], at[within], [horizon]]))))


def _steps_down(times: Array, reached: NDArray[np.bool_]) -> tuple[Array, Array, Array]:
    """Returns the times of arrivals [k], how many runs were at risk then, and how many arrived."""
    at = np.unique(times[reached])
    at_risk = np.sum(times[None, :] >= at[:, None], -1).astype(np.float64)
    arrived = np.sum((times[None, :] == at[:, None]) & reached[None, :], -1).astype(np.float64)
    return at, at_risk, arrived


def common_horizon(runs: Sequence[TimeToTarget]) -> float:
    """Returns the last time up to which every run is known: the earliest censored one, else the last arrival."""
    times, reached = _arrays(runs)
    return float(times.max() if reached.all() else times[~reached].min())


def resolution(runs: Sequence[TimeToTarget]) -> float:
    """Returns the largest gap between two evaluations within which a target was reached: how exact times are."""
    return max((run.time - run.after for run in runs if run.reached), default=0.0)


def _seen(run: int, times: Array, reached: NDArray[np.bool_]) -> float | None:
    return float(times[run]) if reached[run] else None


def _arrays(runs: Sequence[TimeToTarget]) -> tuple[Array, NDArray[np.bool_]]:
    if not runs:
        raise AuxjaxError("no run to take the time of: give at least one")
    return np.array([run.time for run in runs], np.float64), np.array([run.reached for run in runs], bool)
