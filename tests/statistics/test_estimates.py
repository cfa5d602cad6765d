"""Estimates of one arm against values worked out by hand and SciPy's own routines."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from auxjax import statistics
from auxjax.statistics.intervals import t_bounds, trimmed_bounds
from auxjax.statistics.studentised import studentised_bounds
from tests.statistics import rivals

RUNS = [2.0, 4.0, 4.0, 5.0, 10.0]  # mean 5, squares of deviations 9 + 1 + 1 + 0 + 25 = 36, s = 3


def test_students_interval_by_hand() -> None:
    """5 -+ 2.7764 * 3 / sqrt(5) = 5 -+ 3.7250, and with three runs 4 -+ 4.3027 * 2 / sqrt(3) = 4 -+ 4.9683."""
    bounds = t_bounds(np.array(RUNS))
    np.testing.assert_allclose((bounds.value, bounds.low, bounds.high), (5, 1.2750, 8.7250), atol=1e-4)
    three = statistics.mean([2.0, 4.0, 6.0])
    np.testing.assert_allclose(three, (4, -0.9683, 8.9683, 3), atol=1e-4)


def test_the_trimmed_interval_by_hand() -> None:
    """2 and 10 drop, 13 / 3 is left; winsorised 4 4 4 5 5: s_w^2 = 0.3; 4 * 0.3 / (3 * 2) = 0.2; t_2 = 4.3027."""
    reach = 4.302653 * math.sqrt(0.2)
    expected = (13 / 3, 13 / 3 - reach, 13 / 3 + reach, 5)
    np.testing.assert_allclose(statistics.interquartile_mean(RUNS), expected, rtol=1e-6)


def test_the_interquartile_mean_is_scipys() -> None:
    draw = np.random.default_rng(0)
    for n in range(1, 25):
        runs = draw.standard_normal(n)
        value = statistics.interquartile_mean(runs.tolist()).value
        np.testing.assert_allclose(value, stats.trim_mean(runs, 0.25), rtol=1e-12)


def test_the_trimmed_interval_is_scipys_test_turned_round() -> None:
    """Yuen's two-sample test against a constant sample has p = 0.05 at the bound of our interval."""
    runs = np.random.default_rng(1).standard_normal(12)
    bounds = trimmed_bounds(runs)
    for bound in (bounds.low, bounds.high):
        nearly = float(bound) + 1e-9 * np.linspace(-1, 1, 12)
        found = stats.ttest_ind(runs, nearly, equal_var=False, trim=0.25)
        assert found.pvalue == pytest.approx(0.05, abs=1e-4)


def test_the_studentised_bootstrap_is_the_plain_one_where_the_cap_does_not_bind() -> None:
    values = np.random.default_rng(2).lognormal(0, 0.5, (50, 12))
    indices = np.random.default_rng(0).integers(0, 12, (999, 12))
    ours, plain = studentised_bounds(values, resamples=999), rivals.bootstrap_t(values, indices)
    reach = (t_bounds(values).high - values.mean(-1)) * 2 * (1 - 1e-9)
    for side, (bound, expected) in enumerate(zip((ours.low, ours.high), plain, strict=True)):
        free = np.abs(expected - values.mean(-1)) < reach
        assert free.sum() > 40, side
        np.testing.assert_allclose(bound[free], expected[free], rtol=1e-9)
        capped = np.abs(bound - values.mean(-1))
        assert np.all(capped <= reach * (1 + 1e-6))


def test_ties_give_a_finite_interval_that_leans_to_the_long_tail() -> None:
    found = statistics.mean([0.9, 0.9, 0.9, 0.9, 0.95])
    plain = t_bounds(np.array([0.9, 0.9, 0.9, 0.9, 0.95]))
    assert found.low < 0.9 < plain.high < found.high < 1.0


def test_bca_is_scipys_vectorised() -> None:
    """From the same indices they agree to rounding; of 12 runs hardly a resample is the sample in another order."""
    values = np.random.default_rng(3).lognormal(0, 0.5, (4, 12))
    indices = np.random.default_rng(0).integers(0, 12, (999, 12))
    low, high = rivals.bca(values, np.mean, indices)
    for row, *expected in zip(values, low, high, strict=True):
        found = statistics.bootstrap(row.tolist(), resamples=999)
        np.testing.assert_allclose((found.low, found.high), expected, rtol=1e-6)


def test_bootstrap_of_any_statistic_repeats_its_bits() -> None:
    first, second = (statistics.bootstrap(RUNS * 4, np.median, resamples=999) for _ in range(2))
    assert first == second
    assert first.value == 4.0
    assert 2.0 <= first.low <= 4.0 <= first.high <= 10.0
    assert first != statistics.bootstrap(RUNS * 4, np.std, resamples=999)


@pytest.mark.parametrize("estimator", [statistics.mean, statistics.interquartile_mean, statistics.bootstrap])
def test_equal_runs_bound_a_point_and_one_run_bounds_nothing(estimator: object) -> None:
    assert callable(estimator)
    assert estimator([0.5] * 6) == (0.5, 0.5, 0.5, 6)
    assert estimator([0.5]) == (0.5, -math.inf, math.inf, 1)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 11])
def test_intervals_move_and_stretch_with_the_runs(n: int) -> None:
    runs = np.random.default_rng(n).lognormal(0, 1, n)
    for estimator in (statistics.mean, statistics.interquartile_mean):
        before, after = estimator(runs.tolist()), estimator((3 * runs - 7).tolist())
        np.testing.assert_allclose(after[:3], 3 * np.array(before[:3]) - 7, rtol=1e-9)
