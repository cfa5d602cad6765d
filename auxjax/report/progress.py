"""How fast and how steadily each arm learns: steps to several targets, area under the curve, gap, collapses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from auxjax import statistics
from auxjax.report import numbers
from auxjax.report.arms import Arm
from auxjax.report.curves import chance, final, is_share, points
from auxjax.report.headline import Headline, times_by_seed
from auxjax.report.runs import DIVERGED, Run
from auxjax.report.tables import UNKNOWN, Cell, Column, Table, estimate, goal, said, speed_up, steps

# A run that ends under this many times the accuracy of chance has learned nothing.
_NOTHING = 1.5


def table(headline: Headline, targets: Sequence[float]) -> Table:
    """Returns a row for each arm; columns that say nothing about any arm are left out.

    Steps are told as in the headline, to every target. The area is the mean height of the curve of the split that was
    evaluated while training; a run that diverged goes on at chance. The gap is how much better a run was on the last
    training batches that it recorded than at the end of that curve. A run has collapsed where it diverged or ended
    under 1.5 times the accuracy of chance.
    """
    metric, split = headline.metric, headline.curve_split
    arms = {row.arm.name: row.arm for row in headline.rows}
    last = max(run.last_step for arm in arms.values() for run in arm.runs)
    share = is_share(metric)
    columns = [(Column("arm", "runs that differ by seed alone", False), [Cell(name, name) for name in arms])]
    for target in targets:
        reached = {name: times_by_seed(arm, split, metric, target, last) for name, arm in arms.items()}
        speed_ups = numbers.speed_ups(reached, {name: arm.baseline for name, arm in arms.items()})
        to = goal(target, metric)
        columns += [
            (Column(f"steps to {to}", "median over seeds, and how many runs reached it"),
             [steps(numbers.times([*reached[name].values()])) for name in arms]),
            (Column(f"sooner to {to}", "the baseline's steps over the arm's, with its interval"),
             [_sooner(speed_ups[name]) for name in arms]),
        ]  # fmt: skip
    columns += [
        (Column(f"area{', %' * share}", f"mean height of the curve of {split} {metric}, and its 95 % interval"),
         [_mean([_area(run, split, metric, last) for run in arm.runs], metric, "") for arm in arms.values()]),
        (Column(f"gap{', points' * share}", f"the last training batches' {metric} less the last on {split}"),
         [_mean([_gap(run, split, metric) for run in arm.runs], metric, "+") for arm in arms.values()]),
        (Column("collapsed", f"runs that diverged or ended under {_NOTHING:g} times the accuracy of chance"),
         [_collapsed(arm, headline) for arm in arms.values()]),
    ]  # fmt: skip
    return said(columns, [*arms])


def _sooner(found: statistics.SpeedUp | None) -> Cell:
    return UNKNOWN if found is None or found.ratio is None else speed_up(found.ratio)


def _mean(values: Sequence[float | None], metric: str, sign: str) -> Cell:
    known = [value for value in values if value is not None]
    return estimate(numbers.mean(known), metric, sign) if known else UNKNOWN


def _area(run: Run, split: str, metric: str, last: int) -> float | None:
    """Returns the mean height of a run's curve; None for one that has not come to its end, or is a single point."""
    at, values = points(run, split, metric)
    end = chance(run, metric) if run.status == DIVERGED else None
    if end is not None:
        at, values = [*at, at[-1] if at else 0.0, float(last)], [*values, end, end]
    if len(at) < 2 or at[-1] < last or not np.isfinite(values).all():
        return None
    return float(statistics.area(np.array(at), np.array(values)))


def _gap(run: Run, split: str, metric: str) -> float | None:
    trained, held_out = points(run, "train", metric)[1], points(run, split, metric)[1]
    if not trained or not held_out or run.status == DIVERGED:
        return None
    gap = trained[-1] - held_out[-1]
    return gap if numbers.better(metric) == "higher" else -gap


def _collapsed(arm: Arm, headline: Headline) -> Cell:
    ends = [(final(run, headline.split, headline.metric), chance(run, headline.metric)) for run in arm.runs]
    known = [value < _NOTHING * least for value, least in ends if value is not None and least is not None]
    return Cell(f"{sum(known)} of {len(known)}", sum(known)) if known else UNKNOWN
