"""Pairs by seed: hand-computed values, SciPy as oracle, and what the permutation test does with no effect."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from auxjax import statistics
from auxjax.errors import AuxjaxError
from auxjax.statistics.multiplicity import each_level
from auxjax.statistics.pairs import equivalence_p
from auxjax.statistics.permutation import RESAMPLES, sign_flip_p, smallest_p
from auxjax.statistics.wins import wins_bounds

BASELINE = {0: 10.0, 1: 12.0, 2: 11.0, 3: 13.0, 4: 14.0}
ARM = {4: 15.0, 3: 15.0, 2: 14.0, 1: 16.0, 0: 15.0}  # differences 5, 4, 3, 2, 1 for seeds 0 to 4


def test_differences_by_hand() -> None:
    """Mean 3, s = sqrt(2.5), 3 -+ 2.7764 sqrt(2.5 / 5); one of 16 patterns of signs is as far from 0: p = 1 / 16."""
    found = statistics.paired(BASELINE, ARM)
    np.testing.assert_allclose(found.difference, (3, 1.0368, 4.9632, 5), atol=1e-4)
    assert found.p_value == 1 / 16
    assert found.seeds == (0, 1, 2, 3, 4)
    assert found.n == 5
    assert (found.baseline.value, found.arm.value) == (12.0, 15.0)


def test_wins_by_hand() -> None:
    """Each of 15, 15, 15 beats 5 of 5; 14 beats 4 and ties one; 16 beats 5: 24.5 of 25."""
    found = statistics.probability_of_improvement(np.array([*BASELINE.values()]), np.array([*ARM.values()]))
    assert found.value == pytest.approx(24.5 / 25)
    assert 0 < found.low < found.value < found.high < 1


def test_wins_are_scipys_and_mirror() -> None:
    draw = np.random.default_rng(0)
    first, second = draw.integers(0, 8, 7).astype(float), draw.integers(2, 10, 9).astype(float)
    bounds = wins_bounds(first, second)
    np.testing.assert_allclose(bounds.value, stats.mannwhitneyu(second, first).statistic / 63)
    mirrored = wins_bounds(second, first)
    np.testing.assert_allclose((mirrored.low, mirrored.high), (1 - bounds.high, 1 - bounds.low), atol=1e-12)


def test_bounds_of_wins_solve_their_equation() -> None:
    """At U = 12 of 16: (0.75 - P)^2 = z^2 P (1 - P) (1 + 3 ((1 - P) / (2 - P) + P / (1 + P))) / 16."""
    bounds = wins_bounds(np.array([1.0, 2, 3, 8]), np.array([4.0, 5, 6, 7]))
    assert bounds.value == 0.75
    for p in (bounds.low, bounds.high):
        right = 1.959964**2 * p * (1 - p) * (1 + 3 * ((1 - p) / (2 - p) + p / (1 + p))) / 16
        np.testing.assert_allclose((0.75 - p) ** 2, right, rtol=1e-5)
    separated = wins_bounds(np.array([1.0, 2, 3]), np.array([4.0, 5, 6]))
    assert separated.high == 1.0
    assert 0.3 < separated.low < 0.7


def test_seeds_of_one_arm_are_named_and_count_in_nothing() -> None:
    found = statistics.paired({**BASELINE, 8: 0.0}, {**ARM, 9: 99.0})
    assert found.unmatched == (8, 9)
    assert found._replace(unmatched=()) == statistics.paired(BASELINE, ARM)
    with pytest.raises(AuxjaxError, match=r"no seed in common: the baseline has \[0\], the arm \[1\]"):
        statistics.paired({0: 1.0}, {1: 1.0})
    with pytest.raises(AuxjaxError, match="seed 1 is not finite"):
        statistics.paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: float("nan")})


def test_under_five_pairs_there_is_no_p_value() -> None:
    four = {seed: value for seed, value in BASELINE.items() if seed < 4}
    assert statistics.paired(four, ARM).p_value is None
    assert statistics.paired({0: 1.0}, {0: 2.0}).difference == (1.0, -np.inf, np.inf, 1)


def test_shifting_the_arm_shifts_the_difference_alone() -> None:
    shifted = statistics.paired(BASELINE, {seed: value + 10 for seed, value in ARM.items()})
    before = statistics.paired(BASELINE, ARM)
    np.testing.assert_allclose(np.array(shifted.difference[:3]) - before.difference[:3], 10)
    moved = statistics.paired({s: v + 7 for s, v in BASELINE.items()}, {s: v + 7 for s, v in ARM.items()})
    np.testing.assert_allclose(moved.difference, before.difference)
    assert moved.p_value == before.p_value


def test_swapping_the_arms_mirrors_everything() -> None:
    there, back = statistics.paired(BASELINE, ARM), statistics.paired(ARM, BASELINE)
    np.testing.assert_allclose(
        (back.difference.low, back.difference.high), (-there.difference.high, -there.difference.low)
    )
    assert back.p_value == there.p_value
    assert back.probability_of_improvement.value == pytest.approx(1 - there.probability_of_improvement.value)


@pytest.mark.parametrize("n", [5, 8, 12])
def test_the_sign_flip_test_is_scipys_permutation_test(n: int) -> None:
    draw = np.random.default_rng(n)
    differences = np.round(draw.standard_normal((3, n)) + 0.4, 1)
    found = sign_flip_p(differences)
    for row, p in zip(differences, found, strict=True):
        oracle = stats.permutation_test((row,), np.sum, permutation_type="samples", n_resamples=np.inf)
        np.testing.assert_allclose(p, oracle.pvalue, rtol=1e-12)


def test_past_fifteen_pairs_random_signs_come_close_to_the_normal_limit() -> None:
    differences = np.random.default_rng(0).standard_normal((1, 40)) + 0.25
    z = abs(differences.sum()) / np.sqrt(np.sum(differences**2))
    p = float(sign_flip_p(differences)[0])
    assert p == pytest.approx(2 * stats.norm.sf(z), abs=0.02)
    assert sign_flip_p(np.ones((1, 16)))[0] >= smallest_p(16) == 1 / (RESAMPLES + 1)


@pytest.mark.parametrize("n", [5, 7, 18])
def test_with_no_effect_p_is_at_most_alpha_in_at_most_alpha_of_studies(n: int) -> None:
    """And uniform on its steps: without ties P(p <= k / 2^(n - 1)) = k / 2^(n - 1)."""
    samples = 8000 if n < 16 else 400
    p = sign_flip_p(np.random.default_rng(n).standard_t(3, (samples, n)))
    for alpha in (1 / 16, 1 / 8, 1 / 4, 1 / 2):
        tolerance = 4 * np.sqrt(alpha * (1 - alpha) / samples)
        assert abs(np.mean(p <= alpha + 1e-12) - alpha) < tolerance + (1 / RESAMPLES if n > 15 else 0)


def test_equivalence_by_hand() -> None:
    """Mean 3, error sqrt(0.5): t = (5 - 3) / 0.70711 = 2.8284 with 4 degrees of freedom, P(t > 2.8284) = 0.02371."""
    differences = np.array([5.0, 4, 3, 2, 1])
    found = equivalence_p(differences, 5.0)
    np.testing.assert_allclose(found, stats.t.sf(2 * np.sqrt(2), 4))
    np.testing.assert_allclose(found, 0.0237, atol=1e-4)
    np.testing.assert_allclose(equivalence_p(-differences, 5.0), found)
    one_sided = [stats.ttest_1samp(differences, bound, alternative=side).pvalue
                 for bound, side in ((-5.0, "greater"), (5.0, "less"))]  # fmt: skip
    np.testing.assert_allclose(found, max(one_sided))
    assert equivalence_p(np.full(5, 0.25), 0.5) == 0
    assert equivalence_p(np.full(5, 0.75), 0.5) == 1
    assert equivalence_p(np.zeros(1), 0.5) == 1


def test_at_the_margin_equivalence_is_claimed_in_five_percent_of_studies() -> None:
    samples, n = 20_000, 10
    differences = np.random.default_rng(0).standard_normal((samples, n)) + 1.5
    claimed = 100 * np.mean(equivalence_p(differences, 1.5) <= 0.05)
    assert abs(claimed - 5) < 4 * np.sqrt(5 * 95 / samples)


def test_holm_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.03, 0.6 of four: 0.04, 0.06, max(0.06, 0.06), 0.6."""
    found = statistics.holm({"a": 0.03, "b": 0.01, "c": 0.6, "d": 0.02})
    assert list(found) == ["a", "b", "c", "d"]
    np.testing.assert_allclose([found[k] or 0 for k in "abcd"], [0.06, 0.04, 0.6, 0.06])
    assert statistics.holm({"a": 0.02, "b": None}) == {"a": 0.04, "b": None}
    assert statistics.holm({"a": 0.03, "b": 0.031}) == {"a": 0.06, "b": 0.06}  # none less than the one before
    assert statistics.holm({"a": 0.4, "b": 0.9}) == {"a": 0.8, "b": 0.9}


def test_several_arms_have_wider_intervals_and_larger_p() -> None:
    alone = statistics.paired(BASELINE, ARM)
    found = statistics.compare(BASELINE, {"one": ARM, "two": BASELINE})
    wider = statistics.paired(BASELINE, ARM, level=0.975).difference
    assert found["one"].difference == wider
    assert wider.low < alone.difference.low
    assert found["one"].p_value == found["one"].least_p == 2 / 16
    assert found["two"].p_value == 1.0
    assert each_level(5) == pytest.approx(0.99)
    with pytest.raises(AuxjaxError, match="no arm"):
        statistics.compare(BASELINE, {})
