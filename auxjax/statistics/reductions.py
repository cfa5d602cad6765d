"""The table of losses that practitioners quote, with a reduction that is one formula and a speed-up that is a speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from auxjax.errors import AuxjaxError
from auxjax.statistics.curves import Curve
from auxjax.statistics.estimates import mean
from auxjax.statistics.intervals import LEVEL, Array, Estimate, estimate
from auxjax.statistics.pairs import match
from auxjax.statistics.ratios import ratio_of_means
from auxjax.statistics.speed import SpeedUp, speed_up
from auxjax.statistics.survival import TimeToTarget


class LossRow(NamedTuple):
    """Main's loss of both arms at a step, how many percent less the arm's is, and the speed-up to equal main loss."""

    step: float
    baseline: Estimate
    arm: Estimate
    reduction: Estimate
    speed_up: SpeedUp


def loss_table(
    baseline: Mapping[Any, Curve], arm: Mapping[Any, Curve], at: Sequence[float], level: float = LEVEL
) -> list[LossRow]:
    """Returns a row for each step (or epoch, if the curves count epochs) of two arms' {seed: (steps, main's losses)}.

    reduction = 100 (1 - arm / baseline) of the mean losses, with `ratios.ratio_of_means`' interval over paired seeds.
    The speed-up of a row is the time at which runs of the baseline reach the baseline's mean loss of that row, over the
    time at which runs of the arm do: each is where the running minimum of a run's losses crosses it, on a straight line
    between evaluations, and is censored where it never does. At the last step about half of the baseline's own runs are
    still above their mean: ask for earlier steps, or train on. Both are of main's loss alone, never of the sum that is
    trained. Raises AuxjaxError where no seed is common, or a step was not evaluated in every run.
    """
    pairs = match(baseline, arm)
    rows = []
    for step in at:
        before, after = (
            np.array([_loss_at(curve, step, seed) for seed, curve in zip(pairs.seeds, side, strict=True)])
            for side in (pairs.baseline, pairs.arm)
        )
        target, n = float(before.mean()), len(pairs.seeds)
        ratio, low, high = estimate(ratio_of_means(after, before, level), n)[:3]
        # Where all runs have one loss, their mean may round to just under it.
        target += 1e-12 * abs(target)
        first, second = (
            {seed: crossing(curve, target) for seed, curve in zip(pairs.seeds, side, strict=True)}
            for side in (pairs.baseline, pairs.arm)
        )
        reduction = Estimate(100 * (1 - ratio), 100 * (1 - high), 100 * (1 - low), n)
        found = speed_up(first, second, level)._replace(unmatched=pairs.unmatched)
        rows.append(LossRow(step, mean(before.tolist(), level), mean(after.tolist(), level), reduction, found))
    return rows


def crossing(curve: Curve, target: float) -> TimeToTarget:
    """Returns when the running minimum of a run's losses falls to `target`, between two evaluations by interpolation.

    A run that is there at its first evaluation counts from then; one that never is, is censored at its last.
    """
    steps, losses = curve
    lowest: Array = np.minimum.accumulate(losses)
    there = np.flatnonzero(lowest <= target)
    if not there.size:
        return TimeToTarget(float(steps[-1]), False, float(steps[-2]) if len(steps) > 1 else 0.0)
    i = int(there[0])
    if i == 0:
        return TimeToTarget(float(steps[0]), True, 0.0)
    part = (lowest[i - 1] - target) / (lowest[i - 1] - lowest[i])
    time = float(steps[i - 1] + part * (steps[i] - steps[i - 1]))
    # The gap is that between the evaluations, although the line puts the crossing inside it.
    return TimeToTarget(time, True, time - float(steps[i] - steps[i - 1]))


def _loss_at(curve: Curve, step: float, seed: Any) -> float:
    steps, losses = curve
    found = np.flatnonzero(np.asarray(steps) == step)
    if not found.size:
        raise AuxjaxError(f"seed {seed!r} was not evaluated at step {step:g}: choose among {[*map(int, steps)]}")
    return float(losses[found[0]])
