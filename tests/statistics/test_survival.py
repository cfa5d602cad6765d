"""Time to a target: six runs by hand, two of them censored; closed forms; coverage by simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from auxjax import statistics
from auxjax.errors import AuxjaxError
from auxjax.statistics import TimeToTarget
from auxjax.statistics.speed import GEOMETRIC
from auxjax.statistics.survival import common_horizon

# Two never arrive: one was last seen at 30, one at 50.
SIX = [
    TimeToTarget(10, True, 5), TimeToTarget(20, True, 15), TimeToTarget(30, False, 25),
    TimeToTarget(40, True, 30), TimeToTarget(50, False, 45), TimeToTarget(60, True, 55),
]  # fmt: skip


def all_arrive(times: Any) -> list[TimeToTarget]:
    return [TimeToTarget(float(time), True, float(time) - 1) for time in times]


def test_kaplan_meier_by_hand() -> None:
    """5/6; 5/6 * 4/5 = 2/3; 2/3 * 2/3 = 4/9; 4/9 * 0 = 0. At 20: e = sqrt(1/30 + 1/20) / ln 1.5 = 0.71196."""
    found = statistics.kaplan_meier(SIX)
    assert found.time.tolist() == [10, 20, 40, 60]
    np.testing.assert_allclose(found.share, [5 / 6, 2 / 3, 4 / 9, 0], atol=1e-12)
    assert found.at_risk.tolist() == [6, 5, 3, 1]
    assert found.reached.tolist() == [1, 1, 1, 1]
    error = math.sqrt(1 / 30 + 1 / 20) / math.log(1.5)
    bounds = [(2 / 3) ** math.exp(sign * 1.959964 * error) for sign in (1, -1)]
    np.testing.assert_allclose((found.low[1], found.high[1]), bounds, rtol=1e-6)
    assert found.low[3] == 0
    assert found.high[3] == found.high[2]


def test_median_and_restricted_mean_by_hand() -> None:
    """4/9 is the first share under 1/2. Area to 50: 10 + 10 * 5/6 + 20 * 2/3 + 10 * 4/9 = 36.111."""
    median = statistics.median_time(SIX)
    assert (median.value, median.low, median.high) == (40, 10, None)
    assert (median.n, median.reached, median.resolution) == (6, 4, 10)
    found = statistics.restricted_mean(SIX, 50)
    assert found.value == pytest.approx(10 + 50 / 6 + 40 / 3 + 40 / 9)
    assert 0 <= found.low < found.value < found.high <= 50
    assert common_horizon(SIX) == 30
    assert statistics.median_time(all_arrive([1, 2, 3, 4])).value == 2


def test_without_censoring_it_is_the_empirical_distribution() -> None:
    times = np.random.default_rng(0).integers(1, 12, 20)
    found = statistics.kaplan_meier(all_arrive(times))
    np.testing.assert_allclose(found.share, [np.mean(times > t) for t in found.time], atol=1e-12)
    assert statistics.median_time(all_arrive(times)).value == np.sort(times)[9]
    whole = statistics.restricted_mean(all_arrive(times), 12)
    np.testing.assert_allclose(whole, statistics.mean(times.astype(float).tolist()), rtol=1e-6)


def test_runs_watched_to_one_horizon_have_the_plain_mean_of_cut_times() -> None:
    times = np.random.default_rng(1).uniform(0, 10, 12)
    cut = [TimeToTarget(min(t, 6.0), bool(t <= 6)) for t in times]
    found = statistics.restricted_mean(cut, 6.0)
    plain = statistics.mean(np.minimum(times, 6).tolist())
    assert found.value == pytest.approx(plain.value)
    assert found.low <= plain.low + 1e-9
    assert found.high >= min(plain.high, 6.0) - 1e-9


def test_a_run_that_diverges_early_is_neither_dropped_nor_counted_as_arrived() -> None:
    early = [TimeToTarget(2.0, False), *all_arrive([5, 6, 7])]
    assert statistics.median_time(early).value == 6
    assert statistics.restricted_mean(early, 7).value == statistics.restricted_mean(all_arrive([5, 6, 7]), 7).value
    assert statistics.restricted_mean(early, 7).n == 4


def test_where_none_arrives_the_mean_is_bounded_below_only() -> None:
    """0.025^(1/5) = 0.47818."""
    never = [TimeToTarget(100.0, False)] * 5
    found = statistics.restricted_mean(never, 100.0)
    assert (found.value, found.high) == (100.0, 100.0)
    assert found.low == pytest.approx(47.818, abs=1e-3)
    median = statistics.median_time(never)
    assert (median.value, median.low, median.high, median.reached) == (None, None, None, 0)
    with pytest.raises(AuxjaxError, match="horizon 101 is past the last evaluation 100"):
        statistics.restricted_mean(never, 101.0)
    with pytest.raises(AuxjaxError, match="no run"):
        statistics.median_time([])


@pytest.mark.parametrize(("n", "first", "last"), [(3, 0, 2), (5, 0, 4), (6, 0, 5), (10, 1, 8), (20, 5, 14)])
def test_bounds_of_the_median_are_the_binomials(n: int, first: int, last: int) -> None:
    """P(B(10, 1/2) <= 1) = 11 / 1024 = 1.07 %, but <= 2 is 5.47 %; P(B(20, 1/2) <= 5) = 2.07 %, but <= 6 is 5.77 %."""
    found = statistics.median_time(all_arrive(range(100, 100 + n)))
    assert (found.low, found.high) == (100 + first, 100 + last)


def test_time_to_target_counts_evaluations_in_any_unit() -> None:
    history: list[dict[str, Any]] = [
        {"step": step, "split": "validation", "accuracy/main": value, "loss/main": 1 - value}
        for step, value in ((10, 0.3), (20, 0.6), (30, 0.5), (40, 0.8))
    ]
    arguments = (history, "validation", "accuracy/main")
    assert statistics.time_to_target(*arguments, 0.6) == (20, True, 10)
    assert statistics.time_to_target(*arguments, 0.7, per_step=0.5) == (20, True, 15)
    assert statistics.time_to_target(*arguments, 0.9) == (40, False, 30)
    assert statistics.time_to_target(*arguments, 0.2) == (10, True, 0)
    lower = statistics.time_to_target(history, "validation", "loss/main", 0.4, better="lower")
    assert list(lower) == [20, True, 10]
    assert statistics.steps_to_target(*arguments, 0.6) == 20
    assert statistics.steps_to_target(*arguments, 0.9) is None
    with pytest.raises(AuxjaxError, match="no 'accuracy/main' on the test split"):
        statistics.time_to_target(history, "test", "accuracy/main", 0.5)


def by_seed(times: list[float], censored: tuple[int, ...] = ()) -> dict[int, TimeToTarget]:
    return {i: TimeToTarget(t, i not in censored, t - 10) for i, t in enumerate(times)}


def test_speed_up_by_hand() -> None:
    """Ratios 2, 4, 8: geometric mean 4; logarithms 1, 2, 3 times ln 2: exp(ln 2 (2 -+ 4.3027 / sqrt(3)))."""
    found = statistics.speed_up(by_seed([200, 400, 800]), by_seed([100, 100, 100]))
    assert found.ratio is not None
    bounds = [2 ** (2 + sign * 4.302653 / math.sqrt(3)) for sign in (-1, 1)]
    np.testing.assert_allclose(found.ratio, (4, *bounds, 3), rtol=1e-6)
    assert found.method == GEOMETRIC
    assert (found.horizon, found.p_value, found.resolution) == (None, None, 10)


def test_speed_up_with_censored_runs_by_hand() -> None:
    """Cut at 300, where the baseline's seed 2 was last seen: (100 + 200 + 300) / (50 + 100 + 150) = 2, as each."""
    found = statistics.speed_up(by_seed([100, 200, 300], (2,)), by_seed([50, 100, 150]))
    np.testing.assert_allclose(found.ratio or (0, 0, 0, 0), (2, 2, 2, 3), rtol=1e-9)
    assert found.method == "ratio of restricted mean times to 300"
    assert (found.horizon, found.baseline_reached, found.arm_reached) == (300, 2, 3)
    never = by_seed([300] * 5, (0, 1, 2, 3, 4))
    assert statistics.speed_up(never, never).ratio is None
    assert statistics.speed_up(never, never).p_value is None


def test_speed_up_from_few_arrivals_claims_no_bounds() -> None:
    never, one = by_seed([300] * 5, (0, 1, 2, 3, 4)), by_seed([300, 300, 300, 300, 100], (0, 1, 2, 3))
    found = statistics.speed_up(never, one).ratio
    assert found is not None
    assert found.value == pytest.approx(1500 / 1300)
    assert (found.low, found.high) == (0, math.inf)


def test_speed_up_is_paired_and_turns_round() -> None:
    first, second = by_seed([100, 220, 310, 420, 480]), by_seed([60, 100, 190, 200, 290])
    there, back = statistics.speed_up(first, second), statistics.speed_up(second, {**first, 9: TimeToTarget(1, True)})
    assert there.ratio is not None
    assert back.ratio is not None
    np.testing.assert_allclose(back.ratio[:3], [1 / there.ratio.value, 1 / there.ratio.high, 1 / there.ratio.low])
    assert there.p_value == back.p_value == 1 / 16
    assert back.unmatched == (9,)
