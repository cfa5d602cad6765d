"""The table of losses: the popular figures put right, crossings by hand."""

from __future__ import annotations

import numpy as np
import pytest

from auxjax import statistics
from auxjax.errors import AuxjaxError
from auxjax.statistics.reductions import crossing
from auxjax.statistics.speed import GEOMETRIC

EPOCHS = np.array([10, 20, 50])
POPULAR_BASELINE, POPULAR_ARM = np.array([2.34, 1.56, 0.89]), np.array([1.87, 1.21, 0.76])


def test_the_popular_table_has_reductions_of_20_22_and_15_percent() -> None:
    """It prints +25, +22 and +15 %: the first is 2.34 / 1.87 - 1, another formula than the rest. None is a speed."""
    rows = statistics.loss_table({0: (EPOCHS, POPULAR_BASELINE)}, {0: (EPOCHS, POPULAR_ARM)}, [10, 20, 50])
    np.testing.assert_allclose([row.reduction.value for row in rows], [20.1, 22.4, 14.6], atol=0.05)
    assert [row.baseline.value for row in rows] == [2.34, 1.56, 0.89]
    assert [row.arm.value for row in rows] == [1.87, 1.21, 0.76]


def test_a_speed_up_compares_steps_to_equal_main_loss() -> None:
    """The arm is at 1.56 after 10 + 10 * 0.31 / 0.66 epochs, and at 0.89 after 20 + 30 * 0.32 / 0.45: 1.36 and 1.21."""
    rows = statistics.loss_table({0: (EPOCHS, POPULAR_BASELINE)}, {0: (EPOCHS, POPULAR_ARM)}, [20, 50])
    expected = [20 / (10 + 3.1 / 0.66), 50 / (20 + 9.6 / 0.45)]
    found = [row.speed_up.ratio.value for row in rows if row.speed_up.ratio]
    np.testing.assert_allclose(found, expected)
    assert all(row.speed_up.method == GEOMETRIC for row in rows)


def test_an_arm_that_never_gets_there_is_censored() -> None:
    slow = dict.fromkeys(range(2), (EPOCHS, np.array([3.0, 2.5, 2.0])))
    (row,) = statistics.loss_table(dict.fromkeys(range(3), (EPOCHS, POPULAR_BASELINE)), slow, [20])
    assert row.speed_up.arm_reached == 0
    assert row.speed_up.horizon == 50
    assert row.speed_up.ratio is not None
    assert row.speed_up.ratio.value == pytest.approx(20 / 50)
    assert row.reduction.value < 0
    assert row.speed_up.unmatched == (2,)


def test_the_reduction_has_the_interval_of_paired_ratios() -> None:
    """All ratios 0.9: the interval is a point, however far apart the seeds are."""
    losses = {seed: np.array([2.0 + seed, 1.0 + 0.5 * seed]) for seed in range(5)}
    steps = np.array([1, 2])
    arm = {seed: (steps, 0.9 * values) for seed, values in losses.items()}
    (row,) = statistics.loss_table({seed: (steps, values) for seed, values in losses.items()}, arm, [2])
    np.testing.assert_allclose(row.reduction, (10, 10, 10, 5), rtol=1e-9)
    arm[0] = (steps, losses[0])
    (row,) = statistics.loss_table({seed: (steps, values) for seed, values in losses.items()}, arm, [2])
    assert row.reduction.low < row.reduction.value < row.reduction.high


def test_crossings_by_hand() -> None:
    """The running minimum is 4, 2, 2, 1: 3 is crossed half way from 10 to 20, 1.5 half way from 30 to 40."""
    noisy = (np.array([10, 20, 30, 40]), np.array([4.0, 2.0, 5.0, 1.0]))
    assert crossing(noisy, 3.0)[:2] == (15, True)
    assert crossing(noisy, 1.5)[:2] == (35, True)
    assert crossing(noisy, 2.0)[:2] == (20, True)
    assert crossing(noisy, 4.5)[:2] == (10, True)
    assert crossing(noisy, 0.5)[:2] == (40, False)
    assert crossing(noisy, 3.0).time - crossing(noisy, 3.0).after == 10


def test_equal_arms_have_no_reduction_and_no_speed_up() -> None:
    runs = {seed: (EPOCHS, POPULAR_BASELINE * (1 + 0.01 * seed)) for seed in range(5)}
    first, second, last = statistics.loss_table(runs, runs, [10, 20, 50])
    for row in (first, second, last):
        assert row.reduction[:3] == (0, 0, 0)
        assert row.speed_up.ratio is not None
        assert row.speed_up.ratio.value == 1
        assert row.speed_up.ratio[:3] == (1, 1, 1)
    # At the end two of five seeds are under their mean, and one, up to rounding, is at it.
    assert (first.speed_up.baseline_reached, last.speed_up.baseline_reached) == (5, 3)


def test_a_step_that_was_not_evaluated_is_named() -> None:
    runs = {0: (EPOCHS, POPULAR_BASELINE)}
    with pytest.raises(AuxjaxError, match=r"seed 0 was not evaluated at step 15: choose among \[10, 20, 50\]"):
        statistics.loss_table(runs, runs, [15])
