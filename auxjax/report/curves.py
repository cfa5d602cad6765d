"""Figures of what every run records: learning curves, weights over time, accuracy of each exit."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from auxjax.report import numbers
from auxjax.report.arms import Arm, heads_of
from auxjax.report.plots import Frame, Panel, Plot, Series, chunks
from auxjax.report.runs import DIVERGED, FAILED, UNFINISHED, Run

_Place = tuple[str, str]  # a head's tap and its name
_MAIN = ("", "main")


def points(run: Run, split: str, metric: str) -> tuple[list[float], list[float]]:
    """Returns the steps and values of one metric on one split, a step once; what was recorded last holds."""
    found = {
        int(record["step"]): float(record[metric])
        for record in run.history
        if record["split"] == split and isinstance(record.get(metric), int | float)
    }
    return [float(step) for step in sorted(found)], [found[step] for step in sorted(found)]


def evaluated_split(runs: Sequence[Run], split: str) -> str:
    """Returns the split that was evaluated while training: validation where one was held out, else `split`."""
    return "validation" if any("validation" in run.splits for run in runs) else split


def is_share(metric: str) -> bool:
    """Returns whether a metric is a share of 1, shown in percent."""
    return metric.startswith("accuracy/")


def learning(arms: Sequence[Arm], split: str, metric: str, target: float) -> Plot:
    """Returns learning curves: the mean of each arm with its band, a thin line for each seed, a frame a metric.

    The metrics are the one that is compared, main's accuracy and loss, and the loss of every head.
    """
    shown = evaluated_split([run for arm in arms for run in arm.runs], split)
    heads = dict.fromkeys(name for _, name in _by_depth(arms))
    losses = [(f"loss/{name}", where) for name in ("main", *heads) for where in (shown, "train")]
    asked = dict.fromkeys([(metric, shown), ("accuracy/main", shown), *losses])
    frames = []
    for name, where in asked:
        panels = [
            Panel(
                _title(number, group, arms),
                [line for arm in arms if arm.name in group for line in _lines(arm, where, name)],
            )
            for number, group in enumerate(_groups(arms))
        ]  # fmt: skip
        label = _named(name) + (f" on {where}" if where != "train" else " on training batches")
        unit = ", %" if is_share(name) else ""
        if any(panel.series for panel in panels):
            goal = (100 * target if is_share(name) else target) if name == metric else None
            frames.append(Frame(label, label + unit, panels, goal))
    note = (
        "Mean with its 95 % band for the whole curve, over the runs that came to their end; a thin line for each seed, "
        "which stops where its run did."
    )
    return Plot("learning_curves", "Learning curves", note, "step", frames)


def weights(arms: Sequence[Arm]) -> Plot:
    """Returns each head's weight over time, mean over seeds, of the arms in which one changes; no frames if none."""
    panels = []
    for arm in arms:
        lines = []
        for head in heads_of(arm.config):
            runs = {run.name: points(run, "train", f"weight/{head}") for run in arm.runs}
            if any(steps for steps, _ in runs.values()):
                steps, mean = numbers.average(_whole(arm, runs))
                lines.append(Series(head, arm.name, steps, mean))
        if any(len({value for value in line.y if value is not None}) > 1 for line in lines):
            panels.append(Panel(arm.name, lines, arm=arm.name))
    frames = [Frame("", "weight of the head's loss", panels)] if panels else []
    note = "Mean over seeds; arms whose weights stay the same are left out."
    return Plot("weights", "Weights over time", note, "step", frames, colours="label")


def exits(arms: Sequence[Arm], split: str) -> Plot:
    """Returns the accuracy of each head and of main at the last step, shallow to deep; no frames without heads."""
    places = [*_by_depth(arms), _MAIN]
    lines = []
    for arm in arms:
        found, own = [], [*_places(arm.config), _MAIN]
        for place, (tap, name) in enumerate(places):
            values = [value for run in arm.runs if (value := final(run, split, f"accuracy/{name}")) is not None]
            if values and (tap, name) in own and len(own) > 1:
                found.append((float(place), numbers.mean([100 * value for value in values])))
        if len(found) > 1:
            estimates = [estimate for _, estimate in found]
            x = [place for place, _ in found]
            lines.append(Series(arm.name, arm.name, x, [e.value for e in estimates],
                                [e.low for e in estimates], [e.high for e in estimates]))  # fmt: skip
    panels = [
        Panel(_title(number, group, arms), [line for line in lines if line.arm in group])
        for number, group in enumerate(_groups(arms))
    ]
    panels = [panel for panel in panels if panel.series]
    frames = [Frame("", f"{split} accuracy at the last step, %", panels)] if panels else []
    note = "Each head's own accuracy, in the order of their taps, and main's; mean with its 95 % interval."
    return Plot("exits", "Accuracy by exit", note, "exit, shallow to deep", frames, categories=_labels(places))


def final(run: Run, split: str, metric: str) -> float | None:
    """Returns a run's metric by the stated rule, None where it has none.

    A run that is done counts with its last evaluation, which on the test split is what DONE holds. One that diverged
    counts with the accuracy of chance, or the worst value of another metric that it recorded: it has shown how it ends,
    and what it had before would count a failure as a success. One that failed otherwise, or is unfinished, counts not
    yet: nothing is known of its end.
    """
    if run.status == DIVERGED:
        return _worst(run, metric)
    if run.status == FAILED or not run.evaluation:
        return None
    if split == "test" and metric in run.evaluation:
        return run.evaluation[metric]
    values = points(run, split, metric)[1]
    return values[-1] if values else None


def chance(run: Run, metric: str) -> float | None:
    """Returns the accuracy of chance; None for another metric, or where the number of classes is not known."""
    classes = run.dataset.get("num_classes")
    return 1 / classes if is_share(metric) and isinstance(classes, int) and classes > 0 else None


def _worst(run: Run, metric: str) -> float | None:
    """Returns chance for an accuracy where the classes are known, else the worst value recorded on any split."""
    least = chance(run, metric)
    if least is not None:
        return least
    recorded = [float(r[metric]) for r in run.history if isinstance(r.get(metric), int | float)]
    known = [value for value in recorded if math.isfinite(value)]
    worst = min if numbers.better(metric) == "higher" else max
    return worst(known) if known else None


def _lines(arm: Arm, split: str, metric: str) -> list[Series]:
    scale = 100.0 if is_share(metric) else 1.0
    runs = {run.name: points(run, split, metric) for run in arm.runs}
    runs = {name: (x, [scale * value for value in y]) for name, (x, y) in runs.items() if x}
    if not runs:
        return []
    steps, mean, low, high = numbers.band(_whole(arm, runs))
    thin = [Series(f"{arm.name}, {name}", arm.name, x, y, run=name) for name, (x, y) in runs.items()]
    return [*thin, Series(arm.name, arm.name, steps, mean, low, high)]


def _whole(arm: Arm, runs: Mapping[str, numbers.Points]) -> list[numbers.Points]:
    """Returns the curves of the runs that came to their end, of all where none did: one that stops cuts the mean."""
    ended = {run.name for run in arm.runs if run.status not in (DIVERGED, FAILED, UNFINISHED)}
    return [run for name, run in runs.items() if run[0] and name in ended] or [run for run in runs.values() if run[0]]


def _places(config: Mapping[str, Any]) -> list[_Place]:
    """Returns the tap and the name of each head."""
    return [(str(head.get("at", name)), name) for name, head in heads_of(config).items()]


def _by_depth(arms: Sequence[Arm]) -> list[_Place]:
    """Returns the tap and the name of every head, shallow to deep.

    Depth is the order of execution of the layers where a diagnostic recorded it, else that of the numbers in the taps.
    """
    recorded = [r.get("layers") for arm in arms for run in arm.runs for r in run.diagnostics]
    layers = max((names for names in recorded if isinstance(names, list)), key=len, default=[])

    def depth(place: _Place) -> tuple[Any, ...]:
        layer = re.split(r"[/.#\[]", place[0])[0]
        return layers.index(layer) if layer in layers else len(layers), _natural(place[0]), _natural(place[1])

    return sorted({place for arm in arms for place in _places(arm.config)}, key=depth)


def _natural(text: str) -> list[tuple[float, str]]:
    """Returns what sorts text by the numbers in it, as numbers."""
    return [(float(part), "") if part.isdecimal() else (-1.0, part) for part in re.split(r"(\d+)", text)]


def _labels(places: Sequence[_Place]) -> list[str]:
    """Returns the heads' names, after their taps where one name stands at several."""
    names = [name for _, name in places]
    return [name if names.count(name) == 1 else f"{tap} ({name})" for tap, name in places]


def _groups(arms: Sequence[Arm]) -> list[list[str]]:
    return chunks([arm.name for arm in arms], {arm.name: arm.baseline for arm in arms})


def _title(number: int, group: Sequence[str], arms: Sequence[Arm]) -> str:
    """Returns the panel's title: which baseline its arms share, where there are several panels."""
    return f"against {group[0]}" if len(_groups(arms)) > 1 else ""


def _named(metric: str) -> str:
    kind, _, name = metric.partition("/")
    return f"{kind} of {name}" if name else metric
