"""Selection on validation: by hand, and by simulation how much the best of several promises too much."""

from __future__ import annotations

import numpy as np
import pytest

from auxjax import statistics
from auxjax.errors import AuxjaxError

ARMS = {
    "0.1": {0: (0.80, 0.70), 1: (0.82, 0.72), 2: (0.90, 0.71)},
    "0.3": {0: (0.83, 0.60), 1: (0.83, 0.61), 2: (0.83, 0.80)},
}


def test_selection_by_hand() -> None:
    """Means on validation 0.84 and 0.83. Without seed 2 they are 0.81 and 0.83: there 0.3 is chosen; else 0.1."""
    found = statistics.select(ARMS)
    assert found.arm == "0.1"
    assert found.validation.value == pytest.approx(0.84)
    assert found.test == {0: 0.70, 1: 0.72, 2: 0.71}
    assert found.test_mean.value == pytest.approx(0.71)
    assert found.chosen == {"0.1": 2, "0.3": 1}
    assert found.nested.value == pytest.approx((0.70 + 0.72 + 0.80) / 3)
    assert found.validation_optimism == pytest.approx(0.84 - (0.80 + 0.82 + 0.83) / 3)
    assert found.best_on_test == pytest.approx(0.71)


def test_the_test_split_never_decides() -> None:
    swapped = {name: {seed: (v, 1 - t) for seed, (v, t) in runs.items()} for name, runs in ARMS.items()}
    assert statistics.select(swapped).arm == statistics.select(ARMS).arm
    assert statistics.select(swapped).chosen == statistics.select(ARMS).chosen


def test_lower_may_be_better() -> None:
    losses = {name: {seed: (-v, -t) for seed, (v, t) in runs.items()} for name, runs in ARMS.items()}
    found, mirrored = statistics.select(losses, better="lower"), statistics.select(ARMS)
    assert found.arm == mirrored.arm
    assert found.validation_optimism == pytest.approx(mirrored.validation_optimism)
    assert found.best_on_test == pytest.approx(-mirrored.best_on_test)


def test_seeds_that_not_all_arms_have_are_named() -> None:
    found = statistics.select({**ARMS, "0.5": {1: (0.1, 0.1), 2: (0.1, 0.1), 7: (0.99, 0.99)}})
    assert found.unmatched == (0, 7)
    assert found.validation.n == 2
    with pytest.raises(AuxjaxError, match="1 seeds in common"):
        statistics.select({"a": {0: (1.0, 1.0)}})
    with pytest.raises(AuxjaxError, match="no arm"):
        statistics.select({})


def test_of_seven_equal_arms_the_best_on_test_is_biased_and_the_selected_ones_test_is_not() -> None:
    """The largest of 7 means of 5 standard normal values is 1.352 / sqrt(5) = 0.605 on average."""
    studies, random = 400, np.random.default_rng(0)
    found = []
    for _ in range(studies):
        values = random.standard_normal((7, 5, 2))
        arms = {str(arm): dict(enumerate(map(tuple, runs))) for arm, runs in enumerate(values.tolist())}
        chosen = statistics.select(arms)
        found.append([
            chosen.best_on_test, chosen.validation.value, chosen.test_mean.value, chosen.nested.value,
            chosen.validation_optimism,
        ])  # fmt: skip
    best, validation, test, nested, optimism = np.mean(found, 0)
    error = 4 / np.sqrt(5 * studies)
    assert abs(best - 0.605) < error
    assert abs(validation - 0.605) < error
    assert abs(test) < error
    assert abs(nested) < error
    assert abs(optimism - 0.605) < 2 * error
