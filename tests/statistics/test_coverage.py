"""What 95 % intervals cover in simulation: the default ones keep their word, and where they cannot, it is written here.

Quick cases run always; tolerances are four standard errors of the simulated percentage. The long ones print the table
that `auxjax/statistics/estimates.py` quotes.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from auxjax import statistics
from auxjax.statistics import TimeToTarget
from auxjax.statistics.intervals import t_bounds
from auxjax.statistics.ratios import geometric_mean_ratio, ratio_of_means
from auxjax.statistics.wins import wins_bounds
from tests.statistics import rivals
from tests.statistics.populations import POPULATIONS
from tests.statistics.simulate import coverage, covered, noise

# Coverage under 93 %, by (population, runs): skewed results of three and four runs, and collapses that were not seen.
MEAN_SHORT = {
    ("lognormal, sigma 0.5", 3): 92.6, ("beta(8, 1)", 3): 89.8, ("beta(8, 1)", 4): 92.7,
    ("one in ten collapsed", 3): 26.4, ("one in ten collapsed", 4): 34.6, ("one in ten collapsed", 5): 41.2,
    ("one in ten collapsed", 10): 65.3, ("one in ten collapsed", 20): 86.5,
}  # fmt: skip
MIDDLE_SHORT = {("beta(8, 1)", 3): 92.8, ("beta(8, 1)", 4): 92.6, ("beta(8, 1)", 5): 91.8}


def check(rate: float, samples: int, short: float | None, what: object) -> None:
    """Within 93 to 97 %, or, where that cannot be had, what was measured; up to the simulation's noise."""
    low, high = (93.0, 97.0) if short is None else (short, short)
    slack = noise(samples, low)
    assert low - slack <= rate <= high + slack, (what, rate)


@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize("n", [3, 5, 10])
def test_default_intervals_keep_their_word(population: str, n: int) -> None:
    samples = 2000
    rates = coverage(POPULATIONS[population], n, samples)
    check(rates["mean"], samples, MEAN_SHORT.get((population, n)), "mean")
    check(rates["interquartile mean"], samples, MIDDLE_SHORT.get((population, n)), "interquartile mean")


@pytest.mark.slow_study
@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize("n", [3, 4, 5, 10, 20])
def test_default_intervals_of_every_case(population: str, n: int) -> None:
    samples = 20_000
    rates = coverage(POPULATIONS[population], n, samples)
    print(f"{population}, {n} runs: " + ", ".join(f"{name} {rate:.1f} %" for name, rate in rates.items()))
    check(rates["mean"], samples, MEAN_SHORT.get((population, n)), "mean")
    check(rates["interquartile mean"], samples, MIDDLE_SHORT.get((population, n)), "interquartile mean")


def test_bca_does_not_keep_its_word_at_five_runs_and_nearly_does_at_twenty() -> None:
    """Why it is no default: 84 % at five normal runs, 92 % at twenty."""
    samples = 2000
    for n, expected in ((5, 84.0), (20, 92.3)):
        values = np.random.default_rng(n).standard_normal((samples, n))
        low, high = rivals.bca(values, np.mean, np.random.default_rng(0).integers(0, n, (499, n)))
        assert abs(100 * np.mean((low <= 0) & (high >= 0)) - expected) < noise(samples, expected) + 1


@pytest.mark.parametrize("population", POPULATIONS)
def test_paired_differences_of_one_population_cover_at_least_94_percent(population: str) -> None:
    """They are symmetric with tails as long as normal ones or longer: there Student's t covers rather too often."""
    samples = 10_000
    for n in (3, 5, 10, 20):
        random = np.random.default_rng(n)
        draw = POPULATIONS[population].draw
        rate = covered(t_bounds(draw(random, (samples, n)) - draw(random, (samples, n))), 0.0)
        highest = 99.0 if population == "one in ten collapsed" else 97.0
        assert 94 - noise(samples) <= rate <= highest + noise(samples), (n, rate)


@pytest.mark.parametrize("n", [5, 10, 20])
def test_bounds_of_wins_cover(n: int) -> None:
    """93 to 97 % of unpaired studies from five runs on; at three runs 91 to 98 %; more where pairs correlate."""
    samples = 5000
    random = np.random.default_rng(n)
    for distance in (0.0, 0.5, 1.0, 2.0):
        truth = float(special.ndtr(distance / np.sqrt(2)))
        first, second = random.standard_normal((2, samples, n))
        check(covered(wins_bounds(first, second + distance), truth), samples, None, distance)
        shared = random.standard_normal((samples, n))
        paired = wins_bounds(first + shared, second + shared + np.sqrt(2) * distance)
        assert covered(paired, truth) > 97


@pytest.mark.parametrize("n", [3, 5, 10])
def test_speed_ups_cover(n: int) -> None:
    """Times with log-normal spread, paired; where all arrive, and cut at a horizon that a part of the runs misses."""
    samples, random = 8000, np.random.default_rng(n)
    for spread in (0.1, 0.3):
        shared, one, two = spread / np.sqrt(2) * random.standard_normal((3, samples, n))
        baseline, arm = 100 * np.exp(shared + one), 60 * np.exp(shared + two)
        check(covered(geometric_mean_ratio(baseline, arm), 100 / 60), samples, None, spread)
        draws = np.exp(spread * random.standard_normal(400_000))
        truth = np.minimum(100 * draws, 90).mean() / np.minimum(60 * draws, 90).mean()
        check(covered(ratio_of_means(np.minimum(baseline, 90), np.minimum(arm, 90)), truth), samples, None, spread)


@pytest.mark.parametrize("n", [5, 10])
def test_ratios_to_a_horizon_that_few_reach_are_not_claimed(n: int) -> None:
    """Half of the arm's runs arrive before 60, none of the baseline's: where bounds are given they cover."""
    random = np.random.default_rng(n)
    truth = 60 / np.minimum(60 * np.exp(0.1 * random.standard_normal(400_000)), 60).mean()
    hits = 0
    for _ in range(300):
        times = 60 * np.exp(0.1 * random.standard_normal(n))
        arm = {i: TimeToTarget(min(t, 60.0), bool(t < 60)) for i, t in enumerate(times)}
        ratio = statistics.speed_up(dict.fromkeys(range(n), TimeToTarget(60.0, False)), arm).ratio
        hits += ratio is None or ratio.low <= truth <= ratio.high
    assert 100 * hits / 300 > 95 - noise(300)


@pytest.mark.parametrize(("n", "expected"), [(3, 75.0), (4, 87.5), (5, 93.75), (10, 97.85)])
def test_bounds_of_the_median_time_cover_as_the_binomial_says(n: int, expected: float) -> None:
    """However the times are spread; where the lower bound itself is late it is past the truth, and misses."""
    samples = 2000
    hits = 0
    for times in np.random.default_rng(n).weibull(3.0, (samples, n)):
        found = statistics.median_time([TimeToTarget(min(t, 1.0), bool(t <= 1)) for t in times])
        truth = np.log(2) ** (1 / 3)
        hits += found.low is not None and found.low <= truth and (found.high is None or truth <= found.high)
    assert abs(100 * hits / samples - expected) < noise(samples, expected)


@pytest.mark.slow_study
@pytest.mark.parametrize("shape", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("n", [3, 5, 10, 20])
def test_restricted_means_of_every_case(n: int, shape: float) -> None:
    """Weibull times; from every tenth run arriving to all. 93 to 97 % for most cells, 88 to 100 % for all."""
    samples, random = 1000, np.random.default_rng(n)
    draws = random.weibull(shape, 1_000_000)
    for horizon in (0.8, 1.0, 2.0):
        hits = 0
        for times in random.weibull(shape, (samples, n)):
            found = statistics.restricted_mean(
                [TimeToTarget(min(t, horizon), bool(t <= horizon)) for t in times], horizon
            )
            hits += found.low <= np.minimum(draws, horizon).mean() <= found.high
        print(f"Weibull {shape:g}, {n} runs, {np.mean(draws < horizon):.0%} arrive: {100 * hits / samples:.1f} %")
        assert 100 * hits / samples > 88 - noise(samples, 88.0)
