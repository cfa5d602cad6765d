"""Each arm at its own best learning rate: the rate with the best mean on the validation split, over the arm's seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from auxjax.arms import group_id
from auxjax.report import numbers
from auxjax.report.arms import Arm
from auxjax.report.curves import evaluated_split, final, is_share
from auxjax.report.headline import by_seed, judge
from auxjax.report.plots import Frame, Panel, Plot, Series
from auxjax.report.runs import DIVERGED, Run, flat, resolved
from auxjax.report.tables import estimate


class Tuned(NamedTuple):
    """The runs that are compared: of each family, arms equal but for the rate, those at its best rate.

    `key` is the rate's in the config, `families` holds all runs by rate for each kept group id, `notes` says what was
    chosen; where nothing was, all runs are kept, and there are neither key nor families.
    """

    runs: list[Run]
    key: str
    families: dict[str, dict[float, list[Run]]]
    notes: list[str]


def at_best(runs: Sequence[Run], ablation: Mapping[str, Any], split: str, metric: str) -> Tuned:
    """Returns the runs at each family's best value of the key that the ablation tuned; all of them where it did not.

    The best is that of the validation split: where none was recorded nothing is chosen, and a note says so.
    """
    key = ablation.get("tuned")
    if not key:
        return Tuned(list(runs), "", {}, [])
    validation = evaluated_split(runs, split)
    if validation == split:
        return Tuned(list(runs), "", {}, [f"{key} was tried at several values, but no validation split chooses one."])
    families: dict[str, dict[float, list[Run]]] = {}
    for run in runs:
        if run.config:
            family = group_id(_without(resolved(run), key))
            families.setdefault(family, {}).setdefault(float(flat(run)[key]), []).append(run)
    kept: list[Run] = [run for run in runs if not run.config]
    by_group = {}
    for rates in families.values():
        best = max(rates, key=lambda rate: (_goodness(rates[rate], validation, metric), -rate))
        kept += rates[best]
        by_group[group_id(resolved(rates[best][0]))] = rates
    tried = sorted({rate for rates in families.values() for rate in rates})
    note = (
        f"Each arm is compared at its own {key}, chosen among {', '.join(f'{rate:g}' for rate in tried)} by the mean "
        f"of {metric} on the {validation} split, where one at which a run diverged or did not end comes last; the test "
        "split chose nothing."
    )
    return Tuned(kept, key, by_group, [note])


def plot(tuned: Tuned, arms: Sequence[Arm], split: str, metric: str) -> Plot:
    """Returns each arm's validation metric over the rates that were tried, with its interval; no frames if none."""
    shown = Plot("learning_rates", "Learning rates", "", "learning rate", [])
    if not tuned.families:
        return shown
    validation = evaluated_split(
        [run for rates in tuned.families.values() for runs in rates.values() for run in runs], split
    )
    by = 100.0 if is_share(metric) else 1.0
    lines = []
    for arm in arms:
        rates = sorted(tuned.families.get(arm.group, {}).items())
        found = [(rate, numbers.mean([by * value for value in values])) for rate, runs in rates
                 if (values := _values(runs, validation, metric))]  # fmt: skip
        if found:
            bounds = [[_finite(bound) for bound in (e.low, e.high)] for _, e in found]
            lines.append(Series(
                arm.name, arm.name, [rate for rate, _ in found], [e.value for _, e in found],
                [low for low, _ in bounds], [high for _, high in bounds],
            ))  # fmt: skip
    unit = ", %" if is_share(metric) else ""
    note = "Mean over seeds with its 95 % interval at each rate that was tried; each arm is compared at its best."
    return shown._replace(note=note, frames=[Frame("", f"{validation} {metric}{unit}", [Panel("", lines)])])


def at_common(tuned: Tuned, arms: Sequence[Arm], ablation: Mapping[str, Any], split: str, metric: str) -> list[str]:
    """Returns one sentence with every arm's difference at the config's own rate; none where no rate was chosen.

    As in the headline, the arms of one baseline are judged together.
    """
    rate = dict(ablation.get("base", {})).get(tuned.key)
    if rate is None:
        return []
    common = [arm._replace(runs=tuned.families.get(arm.group, {}).get(float(rate), [])) for arm in arms]
    values = {arm.name: by_seed(arm, split, metric) for arm in common}
    unit = " in points" if is_share(metric) else ""
    differences = [
        f"{name}: {estimate(verdict.paired.difference, metric, '+').text}"
        for name, verdict in judge(common, values, metric).items()
        if verdict is not None
    ]
    if not differences:
        return []
    return [f"With every arm at the common rate {float(rate):g}, differences{unit} are: {'; '.join(differences)}."]


def _without(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Returns a nested config that lacks a dotted key."""
    section, _, rest = key.partition(".")
    kept = {name: value for name, value in config.items() if name != key}
    return kept | {section: _without(kept[section], rest)} if rest and section in kept else kept


def _goodness(runs: Sequence[Run], split: str, metric: str) -> float:
    """Returns the mean over seeds, larger being better; a run that diverged or has no value is as bad as can be."""
    values = _values(runs, split, metric)
    if len(values) < len(runs) or not values or any(run.status == DIVERGED for run in runs):
        return -math.inf
    mean = sum(values) / len(values)
    return mean if numbers.better(metric) == "higher" else -mean


def _values(runs: Sequence[Run], split: str, metric: str) -> list[float]:
    return [value for run in runs if (value := final(run, split, metric)) is not None and math.isfinite(value)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
