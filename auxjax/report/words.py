"""What the data support and what they do not, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from auxjax.report.arms import Arm
from auxjax.report.curves import final, is_share
from auxjax.report.headline import Headline, Row
from auxjax.report.numbers import MARGIN
from auxjax.report.runs import DAMAGED, DIVERGED, DONE, FAILED, UNFINISHED, Run
from auxjax.report.tables import goal
from auxjax.statistics.permutation import FEWEST

_SHOWN = 6  # names in one sentence
_CHANCE, _WORST = "the accuracy of chance", "the worst value that it recorded"


def supported(headline: Headline) -> list[tuple[str, str, str]]:
    """Returns (arm, word, sentence) of each arm that is compared with a baseline, and of the one to choose."""
    found = [
        (row.arm.name, row.verdict.word, _capital(row.verdict.sentence))
        for row in headline.rows
        if row.verdict is not None
    ]
    chosen = headline.selection
    if chosen is not None:
        by, unit = (100, " %") if is_share(headline.metric) else (1, "")
        mean, low, high = (f"{by * value:.4g}" for value in chosen.test_mean[:3])
        sentence = (
            f"{_capital(chosen.arm)} has the best validation; its {headline.split} {headline.metric} is "
            f"{mean}{unit} [{low}, {high}]. Choosing anew for each seed by the other seeds gives "
            f"{by * chosen.nested.value:.4g}{unit}."
        )
        found.append((chosen.arm, "chosen on validation", sentence))
    return found


def unsupported(headline: Headline, runs: Sequence[Run], arms: Sequence[Arm], *, tuned: bool = False) -> list[str]:
    """Returns a sentence for each thing that the runs leave open, and for each run that is not done and whole."""
    return [
        *_few_runs(headline.rows), *_unpaired(headline.rows), *_target(headline), *_no_validation(headline, arms),
        *([] if tuned else _one_rate(arms)), *_diverged(headline, runs), *_broken(runs), *_repeated(arms),
    ]  # fmt: skip


def rule(headline: Headline) -> str:
    """Returns how a run's number comes about."""
    share, diverged = ("in percent", _CHANCE) if is_share(headline.metric) else ("as recorded", _WORST)
    return (
        f"A run counts with its {headline.metric} on the {headline.split} split at its last step, {share}; a run that "
        f"diverged with {diverged}, one that failed otherwise or is unfinished not yet. Means have 95 % intervals over "
        "seeds. Differences are paired by seed; their intervals and p-values (Holm) allow for the number of arms "
        f"compared with one baseline, and there is no p-value under {FEWEST} pairs. No difference is said of "
        f"accuracies whose interval lies within {100 * MARGIN:g} points. Steps to the target are read on the "
        f"{headline.curve_split} split at the evaluated steps; runs that never reach it are censored at their last "
        "one, those that diverged at the last step of any run, as they would never have reached it. A speed-up is the "
        "geometric mean of the seeds' ratios where all runs reach the target, else the ratio of mean times cut "
        "at the last step at which all are known, which understates it; its interval allows for the number of arms. "
        "FLOPs count convolutions and matrix products, a multiply-add as two; a step's costs are relative to the "
        "baseline's."
    )


def _few_runs(rows: Sequence[Row]) -> Iterator[str]:
    few = [row.arm.name for row in rows if row.n < FEWEST]
    if few:
        counts = sorted({row.n for row in rows if row.n < FEWEST})
        number = " or ".join(map(str, counts))
        yield f"Too few runs to judge by ({number}, where {FEWEST} is the least): {_listed(few)}. Train more seeds."


def _unpaired(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row.is_baseline:
            continue
        if row.verdict is None:
            yield f"{row.arm.name} shares no seed that has a value with {row.arm.baseline}: no difference is given."
        elif row.verdict.paired.unmatched:
            seeds = ", ".join(map(str, row.verdict.paired.unmatched))
            arms = f"{row.arm.name} and {row.arm.baseline}"
            yield f"Seeds without a partner count in no difference between {arms}: {seeds}."


def _target(headline: Headline) -> Iterator[str]:
    never = [row.arm.name for row in headline.rows if row.times is not None and not row.times.reached]
    target = goal(headline.target, headline.metric)
    if len(never) == len(headline.rows):
        yield f"No run of any arm reached {target}: nothing is said about speed. Choose a --target within reach."
    elif never:
        yield f"No run reached {target}: {_listed(never)}. The time is only known to be longer than the runs."


def _no_validation(headline: Headline, arms: Sequence[Arm]) -> Iterator[str]:
    if headline.curve_split == "validation" or len(arms) < 2:
        return
    yield (
        "No validation split was held out: an arm picked from this table because it is the best has been picked on the "
        "test set, and its number flatters it. Set data.validation_examples to choose fairly."
    )


def _one_rate(arms: Sequence[Arm]) -> Iterator[str]:
    rates = {str(arm.config.get("optimizer.learning_rate")) for arm in arms}
    if len(arms) > 1 and len(rates) == 1:
        yield (
            f"All arms train with the learning rate {rates.pop()}: heads change the size of the gradient, so part of a "
            "difference may be the rate's. Try at least three rates an arm, on validation."
        )


def _diverged(headline: Headline, runs: Sequence[Run]) -> Iterator[str]:
    found = [run for run in runs if run.status == DIVERGED]
    compared = {run.folder for row in headline.rows for run in row.arm.runs}
    counted = [final(run, headline.split, headline.metric) for run in found if run.folder in compared]
    if not found:
        return
    names = _listed([f"{run.name} ({run.problem})" for run in found])
    share = f", {len(counted)} of them in the arms that are compared" if len(counted) < len(found) else ""
    sentence = f"{len(found)} of {len(runs)} runs diverged{share}: {names}."
    values = sorted({100 * value for value in counted if value is not None})
    if is_share(headline.metric) and values:
        shown = " or ".join(f"{value:.4g} %" for value in values)
        sentence += f" In the arms that are compared each counts with {_CHANCE}, {shown}."
    elif values:
        sentence += f" In the arms that are compared each counts with {_WORST}."
    unknown = sum(value is None for value in counted)
    yield sentence + (f" {unknown} recorded nothing and could not be counted." if unknown else "")


def _broken(runs: Sequence[Run]) -> Iterator[str]:
    for status, what in ((FAILED, "failed"), (DAMAGED, "damaged"), (UNFINISHED, "not finished")):
        names = [f"{run.name} ({run.problem})" for run in runs if run.status == status]
        if names:
            yield f"{len(names)} of {len(runs)} runs {'are ' if status != FAILED else ''}{what}: {_listed(names)}."
    odd = [f"{run.name} ({run.problem})" for run in runs if run.status == DONE and run.problem]
    if odd:
        yield f"Done, but not whole: {_listed(odd)}."


def _repeated(arms: Sequence[Arm]) -> Iterator[str]:
    for arm in arms:
        seeds = [run.seed for run in arm.runs]
        again = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if again:
            yield f"{arm.name} has several runs of seed {', '.join(map(str, again))}: the first with a value counts."


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return "; ".join(names[:_SHOWN]) + rest


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
