"""Choosing the best arm (a weight, a learning rate) on the validation split, then reporting its test split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from auxjax.errors import AuxjaxError
from auxjax.statistics.estimates import mean
from auxjax.statistics.intervals import LEVEL, Array, Better, Estimate, estimate, t_bounds

Runs = Mapping[Any, tuple[float, float]]


class Selection(NamedTuple):
    """The arm with the best mean validation value, and its results.

    `validation` is what it was chosen for, so it is too good; `test` is its test value by seed, `test_mean` their mean.
    `nested` is the mean test value when, for each seed, the arm is chosen from the other seeds' validation; `chosen`
    counts which arms those were. `validation_optimism` is by how much the chosen arm's validation promised more than a
    choice made without that seed delivered there. `best_on_test` is what choosing on the test split would have
    claimed: it is there to be compared, never to be reported.
    """

    arm: str
    validation: Estimate
    test: dict[Any, float]
    test_mean: Estimate
    nested: Estimate
    chosen: dict[str, int]
    validation_optimism: float
    best_on_test: float
    unmatched: tuple[Any, ...]


def select(arms: Mapping[str, Runs], *, better: Better = "higher", level: float = LEVEL) -> Selection:
    """Returns the arm chosen on validation, from {arm: {seed: (validation, test)}} over the seeds that all arms have.

    The first arm wins a tie. Raises AuxjaxError where there is no arm, or the arms have under two seeds in common.
    """
    if not arms:
        raise AuxjaxError("no arm to select from: give at least one")
    names, everyone = list(arms), [set(runs) for runs in arms.values()]
    first = arms[names[0]]
    seeds = [seed for seed in first if all(seed in runs for runs in everyone)]
    if len(seeds) < 2:
        raise AuxjaxError(f"the arms have {len(seeds)} seeds in common: run all arms with the same two or more")
    sign = 1.0 if better == "higher" else -1.0
    table = np.array([[arms[name][seed] for seed in seeds] for name in names], np.float64)
    validation, test = table[..., 0], table[..., 1]
    best = int(np.argmax(sign * validation.mean(-1)))
    picked = nested_choice(sign * validation)
    columns = np.arange(len(seeds))
    unmatched = tuple(sorted(set().union(*everyone) - set(seeds), key=str))
    return Selection(
        arm=names[best],
        validation=mean(validation[best].tolist(), level),
        test=dict(zip(seeds, test[best].tolist(), strict=True)),
        test_mean=mean(test[best].tolist(), level),
        nested=estimate(t_bounds(test[picked, columns], level), len(seeds)),
        chosen=dict(Counter(names[arm] for arm in picked)),
        validation_optimism=float(sign * (validation[best].mean() - validation[picked, columns].mean())),
        best_on_test=float(sign * (sign * test.mean(-1)).max()),
        unmatched=unmatched,
    )


def nested_choice(validation: Array) -> np.ndarray:
    """Returns, for each seed, the arm [n] with the highest mean validation [arms, n] over all other seeds."""
    return np.argmax(validation.sum(-1, keepdims=True) - validation, axis=0)
