"""The verdict's rule in examples, and by simulation how often it is wrong where no arm has an effect."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from auxjax import statistics
from auxjax.errors import AuxjaxError
from auxjax.statistics.intervals import t_bounds
from auxjax.statistics.multiplicity import each_level
from auxjax.statistics.verdicts import HELPED, HURT, NO_DIFFERENCE, TOO_FEW, words
from tests.statistics.populations import POPULATIONS
from tests.statistics.simulate import noise

BASELINE = {0: 0.90, 1: 0.91, 2: 0.92, 3: 0.89, 4: 0.90}
ARM = {0: 0.92, 1: 0.925, 2: 0.94, 3: 0.92, 4: 0.91}


def shifted(by: float) -> dict[Any, float]:
    return {seed: value + by for seed, value in BASELINE.items()}


def test_an_arm_that_is_better_in_every_seed_helped() -> None:
    """Differences 0.02, 0.015, 0.02, 0.03, 0.01: mean 0.019, s = 0.0074162, reach 2.7764 * 0.0033166 = 0.0092085."""
    found = statistics.verdict(BASELINE, ARM, percent=True)
    assert found.word == HELPED
    assert found.sentence == (
        "the arm helped: +1.90 points [+0.98, +2.82] over 5 paired seeds (95 % interval; sign-flip p = 0.062, the "
        "least that 5 pairs can give)."
    )
    sixth = ({**BASELINE, 5: 0.5}, {**ARM, 5: 0.52})
    assert statistics.verdict(*sixth, percent=True).sentence.endswith("sign-flip p = 0.031).")
    assert statistics.verdict(ARM, BASELINE).word == HURT
    assert statistics.verdict(BASELINE, ARM, better="lower").word == HURT
    assert statistics.verdict(ARM, BASELINE, better="lower").word == HELPED


def test_under_five_pairs_nothing_can_be_told() -> None:
    four = {seed: value for seed, value in ARM.items() if seed != 4}
    found = statistics.verdict(BASELINE, four, margin=1.0)
    assert found.word == TOO_FEW
    assert "at least 5 pairs are needed" in found.sentence
    assert "unmatched seeds: 4" in found.sentence
    assert "p =" not in found.sentence


def test_one_seed_on_the_other_side_leaves_five_undecided() -> None:
    mixed = {**ARM, 4: BASELINE[4] - 0.0001}
    assert t_bounds(np.array([mixed[s] - BASELINE[s] for s in BASELINE])).low > 0
    found = statistics.verdict(BASELINE, mixed)
    assert found.word == TOO_FEW
    assert found.sentence.startswith("not enough runs to tell whether the arm made a difference: ")


def test_equivalence_needs_a_margin_and_comes_first() -> None:
    little = {seed: value + 0.001 + 0.0001 * seed for seed, value in BASELINE.items()}
    assert statistics.verdict(BASELINE, little).word == HELPED
    found = statistics.verdict(BASELINE, little, margin=0.005, percent=True)
    assert found.word == NO_DIFFERENCE
    assert found.sentence.startswith("the arm made no difference larger than 0.5 points: +0.12 points [+0.10, +0.14]")
    assert statistics.verdict(BASELINE, shifted(0.0), margin=0.001).word == NO_DIFFERENCE
    assert statistics.verdict(BASELINE, shifted(0.0)).word == TOO_FEW
    with pytest.raises(AuxjaxError, match="margin is 0"):
        statistics.verdict(BASELINE, ARM, margin=0.0)


def test_more_arms_ask_more_of_each() -> None:
    differences = np.array([[0.02, 0.015, 0.02, 0.03, 0.002]])
    assert words(differences, 1).tolist() == [HELPED]
    assert words(differences, 5).tolist() == [TOO_FEW]
    found = statistics.verdicts(BASELINE, {"same": shifted(0.0), "better": ARM, "worse": shifted(-0.01)})
    assert {name: verdict.word for name, verdict in found.items()} == {"same": TOO_FEW, "better": HELPED, "worse": HURT}
    assert "98.33 % interval, one of 3 arms" in found["better"].sentence


def test_six_pairs_may_not_rest_on_the_interval_alone() -> None:
    """Every seed on one side gives p = 1 / 32; one on the other side p >= 2 / 32, over 5 %."""
    assert words(np.array([1.0, 1.1, 0.9, 1.0, 1.2, 1.0]), 1) == HELPED
    assert words(np.array([1.0, 1.1, 0.9, 1.0, 1.2, -0.01]), 1) == TOO_FEW


def test_with_more_arms_the_signs_must_say_more_too() -> None:
    """One of seven seeds slightly on the other side: p = 2 / 64, under 5 % but over 1 %, which five arms ask for."""
    differences = np.array([1.0, 1.1, 0.9, 1.0, 1.2, 1.0, -0.01])
    assert t_bounds(differences, each_level(5)).low > 0
    assert words(differences, 1) == HELPED
    assert words(differences, 5) == TOO_FEW


def false_verdicts(draw: Any, n: int, arms: int, studies: int) -> float:
    """Percentage of studies in which any arm "helped" or "hurt" although all values are from one population."""
    random = np.random.default_rng([n, arms])
    difference = draw(random, (studies, arms, n)) - draw(random, (studies, 1, n))
    parts = np.array_split(difference, -(-studies // 200))  # few at a time: 15 pairs have 16,384 patterns of signs
    found = np.concatenate([words(part, arms) for part in parts])
    return float(100 * np.mean(np.any((found == HELPED) | (found == HURT), axis=-1)))


def false_verdicts_at_best_rates(shared: float, overfit: float, n: int, arms: int, studies: int) -> float:
    """The same where each arm is compared at the best of three learning rates, by its mean on the validation split.

    A run's test result is the rate's, plus the seed's (`shared` by all runs of that seed), plus its own noise; on
    validation it has the same but for noise that is its own there, of deviation `overfit`.
    """
    random = np.random.default_rng([n, arms])
    rates = np.array([-0.5, 0.0, 0.1]).reshape(3, 1)
    seeds = shared * random.standard_normal((studies, 1, 1, n))
    test = rates + seeds + random.standard_normal((studies, 1 + arms, 3, n))
    validation = test + overfit * random.standard_normal(test.shape)
    chosen = validation.mean(-1).argmax(-1).reshape(studies, 1 + arms, 1, 1)
    results = np.take_along_axis(test, chosen, 2)[:, :, 0]
    found = words(results[:, 1:] - results[:, :1], arms)
    return float(100 * np.mean(np.any((found == HELPED) | (found == HURT), axis=-1)))


@pytest.mark.parametrize(
    ("shared", "overfit", "expected"),
    # The last chooses nearly at random among rates that do differ: two arms may then differ by their rates.
    [(0.0, 0.0, 5.0), (1.0, 0.5, 5.0), (3.0, 1.0, 5.0), (3.0, 2.0, 6.0)],
)
def test_choosing_every_arms_rate_on_validation_adds_few_false_verdicts(
    shared: float, overfit: float, expected: float
) -> None:
    studies = 10_000
    for n, arms in ((5, 1), (5, 4), (8, 1)):
        rate = false_verdicts_at_best_rates(shared, overfit, n, arms, studies)
        assert rate <= expected + noise(studies, expected), (n, arms, rate)


@pytest.mark.parametrize("population", POPULATIONS)
def test_with_no_effect_at_most_five_percent_of_studies_claim_one(population: str) -> None:
    """The share is at most 5 % plus four standard errors of the simulation, 5.9 % of 10,000 studies."""
    studies = 10_000
    for n, arms in ((5, 1), (5, 4), (8, 1)):
        rate = false_verdicts(POPULATIONS[population].draw, n, arms, studies)
        assert rate <= 5 + noise(studies, 5.0), (n, arms, rate)


def test_an_effect_of_two_deviations_is_found_and_never_reversed() -> None:
    differences = np.random.default_rng(0).standard_normal((10_000, 10)) + 2
    found = words(differences, 1)
    assert np.mean(found == HELPED) > 0.99
    assert not np.any(found == HURT)
    assert np.mean(words(differences / 20, 1, margin=0.5) == NO_DIFFERENCE) > 0.99


def test_simultaneous_intervals_all_cover_in_95_percent_of_studies() -> None:
    studies = 10_000
    for n, arms in ((5, 2), (5, 5), (10, 5)):
        random = np.random.default_rng([n, arms])
        differences = random.standard_normal((studies, arms, n)) - random.standard_normal((studies, 1, n))
        _, low, high = t_bounds(differences, each_level(arms))
        rate = 100 * np.mean(np.all((low <= 0) & (high >= 0), axis=-1))
        assert 95 - noise(studies) <= rate <= 97, (n, arms, rate)


@pytest.mark.slow_study
@pytest.mark.parametrize("population", POPULATIONS)
def test_false_verdicts_of_every_case(population: str) -> None:
    for n in (5, 6, 7, 10, 15, 20):
        for arms in (1, 2, 5):
            count = 10_000 if n <= 10 else 2000
            rate = false_verdicts(POPULATIONS[population].draw, n, arms, count)
            print(f"{population}: {n} pairs, {arms} arms: {rate:.2f} % false verdicts")
            assert rate <= 5 + noise(count, 5.0), (n, arms, rate)
