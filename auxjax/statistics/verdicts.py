"""The verdict on an arm in words, from one rule.

The rule, with m arms against the baseline, n pairs and alpha = 5 %:

1. Under five pairs: not enough runs to tell.
2. Two one-sided paired t tests show |difference| < margin at alpha / m: no difference larger than the margin. It comes
   before 3, as a difference shown to be smaller than what matters has neither helped nor hurt.
3. Student's t interval at 1 - alpha / m leaves out 0, and the sign-flip test's p is at most alpha / m: helped or hurt.
   Where n pairs cannot give so small a p, it must be their smallest, 2^(1 - n): every seed on the same side.
4. Else: not enough runs to tell.

The sign-flip test keeps its level whatever the distribution, but five pairs give no p under 1/16; there the t interval
carries the verdict, and the signs keep it from resting on a single run. With no effect in any of m arms (values of all
arms from one population of tests/statistics/populations.py; m = 1, 2, 5; n = 5 to 20) tests/statistics/test_verdict.py
finds a false "helped" or "hurt" in 1.4 to 4.9 % of studies at five pairs, 0.7 to 4.6 % at six, to 5.1 % at 15. At five
pairs that rests on differences that are nearly normal or have longer tails: where they are spread evenly it is 5.4 %,
and at worst, where all have one size, 6.25 %; from six pairs on one arm's is at most 5 % for any symmetric ones. Where
each arm's learning rate is chosen among three on the validation split it is 2 to 5 %, and 6 % where validation is so
noisy that the choice is nearly one of chance: arms may then differ by their rates. No rule can answer for what the
seeds have not shown: an arm that is a little better in most runs and collapses in one of ten has "helped" in most
studies of five.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from auxjax.errors import AuxjaxError
from auxjax.statistics.intervals import LEVEL, Array, Better, t_bounds
from auxjax.statistics.multiplicity import compare, each_level
from auxjax.statistics.pairs import Paired, equivalence_p
from auxjax.statistics.permutation import FEWEST, sign_flip_p, smallest_p

HELPED, HURT = "helped", "hurt"
NO_DIFFERENCE = "no difference larger than the margin"
TOO_FEW = "not enough runs to tell"


class Verdict(NamedTuple):
    """One of the four words, a sentence with the figures, and the comparison: intervals adjusted for all arms."""

    word: str
    sentence: str
    paired: Paired


def verdict(baseline: Mapping[Any, float], arm: Mapping[Any, float], **options: Any) -> Verdict:
    """Returns the `verdicts` of a single arm, both {seed: value}."""
    return verdicts(baseline, {"the arm": arm}, **options)["the arm"]


def verdicts(
    baseline: Mapping[Any, float],
    arms: Mapping[str, Mapping[Any, float]],
    *,
    margin: float | None = None,
    better: Better = "higher",
    percent: bool = False,
    level: float = LEVEL,
) -> dict[str, Verdict]:
    """Returns the verdict on each arm by the rule at the head of this module.

    `margin` is the smallest difference that matters, in the values' own unit, fixed before the runs; without it no
    equivalence is claimed. `percent` writes values, which are fractions then, as percentages and points. Raises
    AuxjaxError where the margin is not above 0.
    """
    if margin is not None and not margin > 0:
        raise AuxjaxError(f"margin is {margin}: give the smallest difference that matters, above 0")
    found = {}
    for name, result in compare(baseline, arms, level).items():
        differences = np.array([arms[name][seed] - baseline[seed] for seed in result.seeds])
        word = str(words(differences, len(arms), margin, better, level))
        found[name] = Verdict(word, _sentence(name, word, result, len(arms), margin, percent, level), result)
    return found


def words(
    differences: Array, arms: int, margin: float | None = None, better: Better = "higher", level: float = LEVEL
) -> np.ndarray:
    """Returns the word [...] that the rule gives for paired differences [..., n], arm minus baseline, of one arm."""
    n, alpha = differences.shape[-1], (1 - level) / arms
    if n < FEWEST:
        return np.full(differences.shape[:-1], TOO_FEW)
    _, low, high = t_bounds(differences, each_level(arms, level))
    shown = sign_flip_p(differences) <= max(alpha, smallest_p(n)) * (1 + 1e-9)
    gain, loss = (low > 0, high < 0) if better == "higher" else (high < 0, low > 0)
    equal = np.zeros(differences.shape[:-1], bool) if margin is None else equivalence_p(differences, margin) <= alpha
    return np.select([equal, gain & shown, loss & shown], [NO_DIFFERENCE, HELPED, HURT], TOO_FEW)


def is_least(result: Paired) -> bool:
    """Returns whether a p-value is above 5 % only because no smaller one was possible."""
    return result.p_value is not None and 0.05 < result.p_value <= result.least_p * (1 + 1e-9)


def _sentence(
    name: str, word: str, result: Paired, arms: int, margin: float | None, percent: bool, level: float
) -> str:
    scale, unit, digits = (100, " points", ".2f") if percent else (1, "", ".4g")
    value, low, high = (scale * figure for figure in result.difference[:3])
    each = f"{100 * each_level(arms, level):.4g} % interval" + (f", one of {arms} arms" if arms > 1 else "")
    figures = f"{value:+{digits}}{unit} [{low:+{digits}}, {high:+{digits}}] over {result.n} paired seeds ({each}"
    if result.p_value is not None:
        figures += f"; sign-flip p = {result.p_value:.2g}"
        figures += f", the least that {result.n} pairs can give" if is_least(result) else ""
    figures += ")" if not result.unmatched else f"); unmatched seeds: {', '.join(map(str, result.unmatched))}"
    if word == NO_DIFFERENCE and margin is not None:
        return f"{name} made no difference larger than {scale * margin:.4g}{unit}: {figures}."
    if word == TOO_FEW:
        fewest = f", at least {FEWEST} pairs are needed" if result.n < FEWEST else ""
        return f"not enough runs to tell whether {name} made a difference{fewest}: {figures}."
    return f"{name} {word}: {figures}."
