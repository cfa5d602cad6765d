"""The figures of the report, all from auxjax.statistics, in the form that tables and plots take them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from auxjax import statistics
from auxjax.statistics import Estimate, MedianTime, Selection, SpeedUp, TimeToTarget, Verdict
from auxjax.statistics.curves import Curve
from auxjax.statistics.intervals import estimate
from auxjax.statistics.multiplicity import each_level
from auxjax.statistics.ratios import geometric_mean_ratio
from auxjax.statistics.verdicts import Better

# The smallest difference in accuracy that matters: under it "no difference" may be shown. Losses have none.
MARGIN = 0.005
Points = tuple[Sequence[float], Sequence[float]]


def mean(values: Sequence[float]) -> Estimate:
    """Returns the mean over runs with its 95 % interval, which one run leaves unbounded."""
    return statistics.mean(values)


def mean_ratio(values: Sequence[float]) -> Estimate:
    """Returns the geometric mean of ratios over runs with its 95 % interval, which one run leaves unbounded."""
    return estimate(geometric_mean_ratio(np.asarray(values, np.float64), np.ones(len(values))), len(values))


def average(runs: Sequence[Points]) -> tuple[list[float], list[float]]:
    """Returns the mean curve over the runs' common steps."""
    steps, values = statistics.align([_arrays(run) for run in runs])
    return [float(step) for step in steps], [float(value) for value in values.mean(0)]


def band(runs: Sequence[Points]) -> tuple[list[float], list[float], list[float | None], list[float | None]]:
    """Returns steps, mean, and the bounds of the 95 % band that holds for the whole curve; none for one run."""
    found = statistics.mean_curve([_arrays(run) for run in runs])
    columns = ([float(v) if np.isfinite(v) else None for v in column] for column in (found.low, found.high))
    low, high = columns
    return [float(step) for step in found.steps], [float(value) for value in found.mean], low, high


def judge(
    baseline: Mapping[int, float], arms: Mapping[str, Mapping[int, float]], metric: str
) -> dict[str, Verdict | None]:
    """Returns the verdict on each arm against one baseline, None where they have no seed in common."""
    paired = {name: values for name, values in arms.items() if set(values) & set(baseline)}
    share = metric.startswith("accuracy/")
    margin = MARGIN if share else None
    found = {}
    if paired:
        found = statistics.verdicts(baseline, paired, margin=margin, better=better(metric), percent=share)
    return {name: found.get(name) for name in arms}


def reach(points: Points, target: float, metric: str) -> TimeToTarget | None:
    """Returns when a run was first seen at the target, censored at its last evaluation; None for one without any."""
    records = [{"step": step, "split": "", metric: value} for step, value in zip(*points, strict=True)]
    return statistics.time_to_target(records, "", metric, target, better=better(metric)) if records else None


def times(found: Sequence[TimeToTarget]) -> MedianTime | None:
    """Returns the median time over runs, those that never arrived censored; None for no runs."""
    return statistics.median_time(found) if found else None


def speed_ups(
    reached: Mapping[str, Mapping[int, TimeToTarget]], baselines: Mapping[str, str]
) -> dict[str, SpeedUp | None]:
    """Returns the baseline's time to the target over each arm's, paired by seed; None for baselines and unpaired arms.

    `baselines` has the name of each arm's baseline. Intervals allow for the number of arms compared with it.
    """
    against = Counter(baseline for name, baseline in baselines.items() if name != baseline)
    found: dict[str, SpeedUp | None] = dict.fromkeys(baselines)
    for name, baseline in baselines.items():
        if name != baseline and set(reached[baseline]) & set(reached[name]):
            level = each_level(against[baseline])
            found[name] = statistics.speed_up(reached[baseline], reached[name], level)
    return found


def select(arms: Mapping[str, Mapping[int, tuple[float, float]]], metric: str) -> Selection | None:
    """Returns the arm chosen on validation, from (validation, test) by seed; None under two arms or common seeds."""
    common = set.intersection(*map(set, arms.values())) if arms else set()
    return statistics.select(arms, better=better(metric)) if len(arms) > 1 and len(common) > 1 else None


def better(metric: str) -> Better:
    """Returns which values of a metric are better: of losses the lower ones."""
    return "lower" if metric.startswith("loss/") else "higher"


def _arrays(run: Points) -> Curve:
    return np.asarray(run[0]), np.asarray(run[1], np.float64)
