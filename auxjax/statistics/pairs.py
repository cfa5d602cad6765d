"""Two arms paired by seed: their difference with its interval, a permutation test, and how often the arm wins."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from auxjax.errors import AuxjaxError
from auxjax.statistics.estimates import mean_bounds
from auxjax.statistics.intervals import LEVEL, Array, Estimate, estimate, t_bounds
from auxjax.statistics.permutation import FEWEST, sign_flip_p, smallest_p
from auxjax.statistics.wins import probability_of_improvement


class Pairs(NamedTuple):
    """Values of the seeds that both arms have, in the baseline's order; and the seeds that only one of them has."""

    seeds: tuple[Any, ...]
    baseline: tuple[Any, ...]
    arm: tuple[Any, ...]
    unmatched: tuple[Any, ...]


class Paired(NamedTuple):
    """`difference` is arm minus baseline, `p_value` the two-sided sign-flip test's, None under five pairs.

    `least_p` is the smallest p-value that so few pairs can give, with the same allowance for the number of arms.
    """

    n: int
    baseline: Estimate
    arm: Estimate
    difference: Estimate
    p_value: float | None
    least_p: float
    probability_of_improvement: Estimate
    seeds: tuple[Any, ...]
    unmatched: tuple[Any, ...]


def match(baseline: Mapping[Any, Any], arm: Mapping[Any, Any]) -> Pairs:
    """Returns the values of two arms by common seed. Raises AuxjaxError where they have none in common."""
    seeds = tuple(seed for seed in baseline if seed in arm)
    if not seeds:
        raise AuxjaxError(
            f"no seed in common: the baseline has {list(baseline)}, the arm {list(arm)}; run both with the same seeds"
        )
    unmatched = tuple(seed for seed in (*baseline, *arm) if seed not in seeds)
    return Pairs(seeds, tuple(baseline[s] for s in seeds), tuple(arm[s] for s in seeds), unmatched)


def paired(baseline: Mapping[Any, float], arm: Mapping[Any, float], level: float = LEVEL) -> Paired:
    """Returns what runs with the same seeds say of an arm against its baseline, both {seed: value}.

    The difference has Student's t interval over seeds; seeds that only one arm has are named in `unmatched` and count
    in nothing. Raises AuxjaxError where no seed is common or a value is not finite.
    """
    pairs = match(baseline, arm)
    before, after = finite(pairs.baseline, pairs.seeds), finite(pairs.arm, pairs.seeds)
    n, differences = len(pairs.seeds), after - before
    return Paired(
        n=n,
        baseline=estimate(mean_bounds(before, level), n),
        arm=estimate(mean_bounds(after, level), n),
        difference=estimate(t_bounds(differences, level), n),
        p_value=float(sign_flip_p(differences)) if n >= FEWEST else None,
        least_p=smallest_p(n),
        probability_of_improvement=probability_of_improvement(before, after, level),
        seeds=pairs.seeds,
        unmatched=pairs.unmatched,
    )


def equivalence_p(differences: Array, margin: float) -> Array:
    """Returns the p-values [...] of two one-sided paired t tests: small where the mean is within -margin and margin.

    `differences` is [..., n]. The larger of the two tests' p-values (TOST, Schuirmann 1987), so that p <= alpha exactly
    where the interval at level 1 - 2 alpha lies within the margin.
    """
    n = differences.shape[-1]
    value, error = differences.mean(-1), differences.std(-1, ddof=min(1, n - 1)) / np.sqrt(n)
    if n < 2:
        return np.ones_like(value)
    room = margin - np.abs(value)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(error > 0, room / error, np.where(room > 0, np.inf, -np.inf))
    return np.asarray(special.stdtr(n - 1, -t), np.float64)


def finite(values: tuple[float, ...], seeds: tuple[Hashable, ...]) -> Array:
    """Returns the values as a float64 array. Raises AuxjaxError that names the seeds whose value is not finite."""
    array = np.asarray(values, np.float64)
    broken = [seed for seed, value in zip(seeds, array, strict=True) if not np.isfinite(value)]
    if broken:
        raise AuxjaxError(f"the value of seed {broken[0]!r} is not finite: give a diverged run the accuracy of chance")
    return array
