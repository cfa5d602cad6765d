"""How many times faster an arm reaches a target than its baseline, paired by seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from auxjax.statistics.intervals import LEVEL, Bounds, Estimate, estimate
from auxjax.statistics.pairs import match
from auxjax.statistics.permutation import FEWEST, sign_flip_p
from auxjax.statistics.ratios import geometric_mean_ratio, ratio_of_means
from auxjax.statistics.survival import TimeToTarget, common_horizon, resolution

GEOMETRIC = "geometric mean of the ratios of time to target"
RESTRICTED = "ratio of restricted mean times"


class SpeedUp(NamedTuple):
    """Baseline's time over the arm's (above 1: the arm is faster); None where no run of either arm arrived.

    `method` says which ratio it is; `horizon` is where times were cut in the second. `p_value` is the paired sign-flip
    test's on what was averaged, None under five pairs. `resolution` is the coarsest gap between evaluations.
    """

    ratio: Estimate | None
    method: str
    horizon: float | None
    p_value: float | None
    baseline_reached: int
    arm_reached: int
    n: int
    resolution: float
    unmatched: tuple[Any, ...]


def speed_up(baseline: Mapping[Any, TimeToTarget], arm: Mapping[Any, TimeToTarget], level: float = LEVEL) -> SpeedUp:
    """Returns how many times faster the arm reaches the target, both {seed: time to target}.

    Where every run of both arms arrives: the geometric mean over seeds of baseline's time / the arm's, with Student's t
    interval of its logarithm. Where some do not: the ratio of the mean times, each cut at the common horizon (the
    earliest time at which a run that never arrived was last seen), with `ratios.ratio_of_means`' interval; as late runs
    count as the horizon, it understates a speed-up rather than dropping the run. Where under half of the runs of either
    arm arrive before the horizon that interval does not keep its word (it covered 9 to 93 %), and is 0 to infinity.
    Raises AuxjaxError as `match` does.
    """
    pairs = match(baseline, arm)
    runs, n = (*pairs.baseline, *pairs.arm), len(pairs.seeds)
    before, after = (np.array([run.time for run in side], np.float64) for side in (pairs.baseline, pairs.arm))
    reached = [sum(run.reached for run in side) for side in (pairs.baseline, pairs.arm)]
    horizon = None if sum(reached) == 2 * n else common_horizon(runs)
    if horizon is None:
        bounds: Bounds | None = geometric_mean_ratio(before, after, level)
        gaps = np.log(before) - np.log(after)
    else:
        before, after = np.minimum(before, horizon), np.minimum(after, horizon)
        bounds = ratio_of_means(before, after, level) if sum(reached) else None
        if bounds and 2 * max(np.sum(before < horizon), np.sum(after < horizon)) < n:
            bounds = Bounds(bounds.value, np.zeros_like(bounds.low), np.full_like(bounds.high, np.inf))
        gaps = before - after
    return SpeedUp(
        ratio=estimate(bounds, n) if bounds else None,
        method=GEOMETRIC if horizon is None else f"{RESTRICTED} to {horizon:g}",
        horizon=horizon,
        p_value=float(sign_flip_p(gaps)) if n >= FEWEST and sum(reached) else None,
        baseline_reached=reached[0],
        arm_reached=reached[1],
        n=n,
        resolution=resolution(runs),
        unmatched=pairs.unmatched,
    )
