"""What a figure is made of, for paper and page alike: lines and heat maps in panels, a frame for each choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

Numbers = Sequence[float | None]


class Series(NamedTuple):
    """A line: its points, a band around it where `low` and `high` are given; `run` is named where it is one run's."""

    label: str
    arm: str
    x: Sequence[float]
    y: Numbers
    low: Numbers = ()
    high: Numbers = ()
    run: str = ""


class Grid(NamedTuple):
    """A heat map: values[row][column], None where there is none; `hatched` marks cells, `texts` are written in them."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Numbers]
    hatched: Sequence[Sequence[bool]] = ()
    texts: Sequence[Sequence[str]] = ()


class Panel(NamedTuple):
    """One pair of axes: lines, or a grid."""

    title: str
    series: Sequence[Series] = ()
    grid: Grid | None = None
    arm: str = ""


class Frame(NamedTuple):
    """One state of a figure, chosen by name: its panels and what their vertical axis (or their colour) measures."""

    label: str
    y_label: str
    panels: Sequence[Panel]
    target: float | None = None


class Plot(NamedTuple):
    """A figure. `categories` name the horizontal positions 0, 1, ...; `colours` tells arms or labels apart by colour.

    `scale` is of a grid's colours: "sequential", or "diverging" around 0.
    """

    name: str
    title: str
    note: str
    x_label: str
    frames: Sequence[Frame]
    categories: Sequence[str] = ()
    colours: str = "arm"
    log: bool = False
    scale: str = "sequential"


def chunks(arms: Sequence[str], baseline: Mapping[str, str], size: int = 7) -> list[list[str]]:
    """Returns the arms of each panel: those that share a baseline, at most `size` of them beside it."""
    panels = []
    for first in dict.fromkeys(baseline[arm] for arm in arms):
        others = [arm for arm in arms if baseline[arm] == first and arm != first]
        for start in range(0, max(len(others), 1), size):
            panels.append([first, *others[start : start + size]])
    return panels


def thin(series: Series, points: int) -> Series:
    """Returns a line with at most `points` of its points, evenly spaced, the first and the last among them."""
    if len(series.x) <= points:
        return series
    kept = np.unique(np.linspace(0, len(series.x) - 1, points).round().astype(int))
    x, y, low, high = (
        [values[i] for i in kept] if len(values) else () for values in (series.x, series.y, series.low, series.high)
    )
    return series._replace(x=x, y=y, low=low, high=high)


def thinned(plot: Plot, points: int) -> Plot:
    """Returns a plot with all its lines thinned."""
    frames = [
        frame._replace(
            panels=[panel._replace(series=[thin(line, points) for line in panel.series]) for panel in frame.panels]
        )
        for frame in plot.frames
    ]
    return plot._replace(frames=frames)
