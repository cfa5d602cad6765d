"""The headline table: for each arm its metric, its paired difference, its time to the target and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from auxjax.report import costs, numbers
from auxjax.report.arms import Arm
from auxjax.report.curves import evaluated_split, final, is_share, points
from auxjax.report.runs import DIVERGED
from auxjax.statistics import Estimate, MedianTime, Selection, SpeedUp, TimeToTarget, Verdict


class Row(NamedTuple):
    """One arm's line. What is None is not known: no run has a value, there is no common seed, or no data set's shape.

    `value` is over the arm's runs, `verdict` against its baseline (None for a baseline), `times` in steps, `speed_up`
    the baseline's steps to the target over the arm's, `seconds` and `flops` of a training step over the baseline's.
    """

    arm: Arm
    n: int
    value: Estimate | None
    verdict: Verdict | None
    times: MedianTime | None
    speed_up: SpeedUp | None
    seconds: float | None
    flops: float | None
    seconds_per_step: float | None
    costs: costs.Costs | None

    @property
    def is_baseline(self) -> bool:
        """Whether other arms are compared with this one."""
        return self.arm.name == self.arm.baseline


class Headline(NamedTuple):
    """All rows, baselines first, and what a reader must know: the metric, its split and target, the curve's split."""

    rows: list[Row]
    metric: str
    split: str
    curve_split: str
    target: float
    selection: Selection | None


def make(arms: Sequence[Arm], split: str, metric: str, target: float) -> Headline:
    """Returns the headline of all arms; nothing is recomputed, FLOPs and parameters are counted from the configs."""
    curve_split = evaluated_split([run for arm in arms for run in arm.runs], split)
    values = {arm.name: by_seed(arm, split, metric) for arm in arms}
    last = max(run.last_step for arm in arms for run in arm.runs)
    reached = {arm.name: times_by_seed(arm, curve_split, metric, target, last) for arm in arms}
    speed_ups = numbers.speed_ups(reached, {arm.name: arm.baseline for arm in arms})
    verdicts = judge(arms, values, metric)
    counted = {arm.name: costs.count(arm.runs[0].config, _dataset(arm)) for arm in arms}
    seconds = {arm.name: _seconds_per_step(arm) for arm in arms}
    rows = []
    for arm in arms:
        own, other = counted[arm.name], counted[arm.baseline]
        rows.append(Row(
            arm=arm,
            n=len(values[arm.name]),
            value=numbers.mean(list(values[arm.name].values())) if values[arm.name] else None,
            verdict=verdicts.get(arm.name),
            times=numbers.times(list(reached[arm.name].values())),
            speed_up=speed_ups[arm.name],
            seconds=_ratio(seconds[arm.name], seconds[arm.baseline]),
            seconds_per_step=seconds[arm.name],
            flops=_ratio(own.train_flops if own else None, other.train_flops if other else None),
            costs=own,
        ))  # fmt: skip
    return Headline(rows, metric, split, curve_split, target, _selection(arms, curve_split, split, metric))


def by_seed(arm: Arm, split: str, metric: str) -> dict[int, float]:
    """Returns each seed's value by the stated rule; of two runs with one seed the first counts."""
    found: dict[int, float] = {}
    for run in arm.runs:
        value = final(run, split, metric)
        if value is not None:
            found.setdefault(run.seed, value)
    return found


def times_by_seed(arm: Arm, split: str, metric: str, target: float, last: int) -> dict[int, TimeToTarget]:
    """Returns when each seed's run was at the target; one that diverged before was not by the `last` step of any."""
    found: dict[int, TimeToTarget] = {}
    for run in arm.runs:
        time = numbers.reach(points(run, split, metric), target, metric)
        if run.status == DIVERGED and not (time and time.reached):
            # Censored where it stopped it would leave the runs at risk, and the rest would look faster.
            time = TimeToTarget(float(last), False)
        if time is not None:
            found.setdefault(run.seed, time)
    return found


def judge(arms: Sequence[Arm], values: Mapping[str, Mapping[int, float]], metric: str) -> dict[str, Verdict | None]:
    """Returns the verdict on each arm; the arms of one baseline are judged together, so that their number counts."""
    found: dict[str, Verdict | None] = {}
    for baseline in dict.fromkeys(arm.baseline for arm in arms):
        others = {arm.name: values[arm.name] for arm in arms if arm.baseline == baseline != arm.name}
        found |= numbers.judge(values[baseline], others, metric)
    return found


def scale(metric: str) -> float:
    """Returns what values are multiplied with to be shown: 100 for shares."""
    return 100.0 if is_share(metric) else 1.0


def _selection(arms: Sequence[Arm], validation: str, test: str, metric: str) -> Selection | None:
    """Returns the arm chosen on the validation split, None where none was held out."""
    if validation == test:
        return None
    values = {arm.name: (by_seed(arm, validation, metric), by_seed(arm, test, metric)) for arm in arms}
    both = {
        name: {seed: (before[seed], after[seed]) for seed in before if seed in after}
        for name, (before, after) in values.items()
    }
    return numbers.select(both, metric)


def _seconds_per_step(arm: Arm) -> float | None:
    """Returns the median over all records of all runs; the first step's compiles, and is left out."""
    rates = [
        float(record["steps_per_second"]) for run in arm.runs for record in run.history
        if record.get("steps_per_second") and record["step"] > 1
    ]  # fmt: skip
    return float(1 / np.median(rates)) if rates else None


def _dataset(arm: Arm) -> Mapping[str, object]:
    return next((run.dataset for run in arm.runs if run.dataset), {})


def _ratio(value: float | None, other: float | None) -> float | None:
    return value / other if value is not None and other else None
