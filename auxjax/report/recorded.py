"""Makers of figures from recorded diagnostics: a mean over seeds for each arm, a frame for each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from auxjax.report import numbers
from auxjax.report.arms import Arm, heads_of
from auxjax.report.plots import Frame, Grid, Panel, Plot, Series
from auxjax.statistics import Estimate

Record = Mapping[str, Any]
Get = Callable[[Record], Any]
Mean = Callable[[Sequence[Any]], Estimate]
# Panels and frames of a grid; a page of fifty arms would be neither small nor read.
PANELS, FRAMES = 8, 9


def collect(arm: Arm, kind: str, get: Get) -> dict[int, list[Any]]:
    """Returns what `get` finds in an arm's records of one kind, by step, an entry a run; None is left out.

    Where records name a loss, those of "total" are taken if there are any, else those of "main".
    """
    found: dict[int, list[Any]] = {}
    losses = {
        r["loss"] for run in arm.runs for r in run.diagnostics
        if r["diagnostic"] == kind and isinstance(r.get("loss"), str)
    }  # fmt: skip
    loss = next((name for name in ("total", "main") if name in losses), None)
    for run in arm.runs:
        records = [r for r in run.diagnostics if r["diagnostic"] == kind]
        records = [r for r in records if not isinstance(r.get("loss"), str) or r["loss"] == loss]
        by_step = {int(r["step"]): value for r in records if (value := get(r)) is not None}
        for step, value in by_step.items():
            found.setdefault(step, []).append(value)
    return dict(sorted(found.items()))


def mean_over_runs(values: Sequence[Any], geometric: bool = False) -> np.ndarray:
    """Returns the mean over runs of nested lists, null where every run has null."""
    array = np.asarray(values, dtype=np.float64)
    array = np.log(np.where(array > 0, array, np.nan)) if geometric else array
    known = np.isfinite(array)
    total = np.where(known, array, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    total = np.where(known.any(0), total, np.nan)
    return np.exp(total) if geometric else total


def spread_out(steps: Sequence[int], count: int) -> list[int]:
    """Returns at most `count` of the steps, evenly, the first and the last among them."""
    ordered = sorted(steps)
    return [ordered[i] for i in np.unique(np.linspace(0, len(ordered) - 1, count).round().astype(int))] if steps else []


def over_time(
    kind: str, title: str, measures: Mapping[str, Get], note: str, log: bool = False, mean: Mean = numbers.mean
) -> Callable[..., Plot]:
    """Returns the maker of a figure of numbers over steps, a line an arm, a frame for each of `{what it is: get}`."""

    def make(arms: Sequence[Arm]) -> Plot:
        frames = []
        for y_label, get in measures.items():
            lines = []
            for arm in arms:
                found = collect(arm, kind, get)
                if found:
                    each = [mean(values) for values in found.values()]
                    lines.append(Series(arm.name, arm.name, list(map(float, found)), [e.value for e in each],
                                        [e.low for e in each], [e.high for e in each]))  # fmt: skip
            frames += [Frame(y_label if len(measures) > 1 else "", y_label, [Panel("", lines)])] if lines else []
        return Plot(f"{kind}_over_time", title, note, "step", frames, log=log)

    return make


def by_loss_over_time(
    kind: str, title: str, measures: Mapping[str, Get], note: str, log: bool = False
) -> Callable[..., Plot]:
    """Returns the maker of a figure of numbers over steps by loss, a panel an arm with heads, a line a loss.

    Each of `{what it is: get}` is a frame, and gives `{loss: number}` of a record.
    """

    def make(arms: Sequence[Arm]) -> Plot:
        frames = []
        for y_label, get in measures.items():
            panels: list[Panel] = []
            for arm in arms:
                found = collect(arm, kind, get) if heads_of(arm.config) and len(panels) < PANELS else {}
                lines = _lines_by_loss(arm.name, found)
                panels += [Panel(arm.name, lines, arm=arm.name)] if lines else []
            frames += [Frame(y_label if len(measures) > 1 else "", y_label, panels)] if panels else []
        return Plot(f"{kind}_by_loss", title, note, "step", frames, colours="label", log=log)

    return make


def _lines_by_loss(arm: str, found: Mapping[int, Sequence[Mapping[str, float | None]]]) -> list[Series]:
    """Returns a line for each loss of an arm's `{step: [{loss: number} of each run]}`."""
    losses = dict.fromkeys(loss for runs in found.values() for run in runs for loss in run)
    steps = list(map(float, found))
    rows = [[mean_over_runs([run.get(loss) for run in runs]) for runs in found.values()] for loss in losses]
    return [Series(loss, arm, steps, known_values(np.asarray(row))) for loss, row in zip(losses, rows, strict=True)]


def by_position(
    kind: str, title: str, x_label: str, y_label: str, names: str, get: Get, note: str, log: bool = False,
    scale: float = 1.0,
) -> Callable[..., Plot]:  # fmt: skip
    """Returns the maker of a figure of one number by layer or exit, a line an arm, a frame for each recorded step."""

    def make(arms: Sequence[Arm]) -> Plot:
        found = {arm.name: collect(arm, kind, lambda r: dict(zip(r[names], get(r), strict=True))) for arm in arms}
        places = _union([run for steps in found.values() for runs in steps.values() for run in runs])
        frames = []
        for step in spread_out(list({step for steps in found.values() for step in steps}), FRAMES):
            lines = []
            for arm in arms:
                runs = found[arm.name].get(step, [])
                if runs:
                    values = mean_over_runs([[run.get(place) for place in places] for run in runs], geometric=log)
                    at = [i for i, value in enumerate(values) if np.isfinite(value)]
                    lines.append(
                        Series(arm.name, arm.name, list(map(float, at)), [scale * float(values[i]) for i in at])
                    )
            frames.append(Frame(f"step {step}", y_label, [Panel("", lines)]))
        return Plot(f"{kind}_by_layer", title, note, x_label, frames, categories=places, log=log)

    return make


def matrices(
    kind: str, title: str, names: str, get: Get, note: str, y_label: str, scale: str = "diverging"
) -> Callable[..., Plot]:
    """Returns the maker of a figure of a matrix for each arm, a frame for each recorded step."""

    def make(arms: Sequence[Arm]) -> Plot:
        found = {arm.name: collect(arm, kind, lambda r: (tuple(r[names]), get(r))) for arm in arms}
        frames = []
        for step in spread_out(list({step for steps in found.values() for step in steps}), FRAMES):
            panels = []
            for arm in [arm for arm in arms if found[arm.name].get(step)][:PANELS]:
                runs = found[arm.name][step]
                labels = runs[0][0]
                values = mean_over_runs([matrix for others, matrix in runs if others == labels])
                if len(labels) > 1:
                    panels.append(Panel(arm.name, grid=to_grid(labels, labels, values), arm=arm.name))
            frames.append(Frame(f"step {step}", y_label, panels))
        return Plot(f"{kind}_matrix", title, note, "", [f for f in frames if f.panels], scale=scale)

    return make


def to_grid(rows: Sequence[str], columns: Sequence[str], values: np.ndarray) -> Grid:
    return Grid([str(r) for r in rows], [str(c) for c in columns], [known_values(row) for row in values])


def known_values(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def positive(label: str, arm: str, row: np.ndarray) -> Series:
    at = [i for i, value in enumerate(row) if np.isfinite(value)]
    return Series(label, arm, list(map(float, at)), [float(row[i]) for i in at])


def _union(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns all places in the order of the run that has most of them; "main" and what is new come last."""
    places = {str(place): None for run in sorted(runs, key=len, reverse=True) for place in run}
    return [place for place in places if place != "main"] + (["main"] if "main" in places else [])
