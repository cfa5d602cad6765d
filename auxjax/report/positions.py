"""The heat map of weight against position (or any two axes): paired differences, hatched where nothing is shown."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from auxjax.report.arms import Arm, is_plain, varied
from auxjax.report.curves import is_share
from auxjax.report.headline import Headline, Row, scale
from auxjax.report.plots import Frame, Grid, Panel, Plot

_PANELS = 6


def heat_map(headline: Headline, arms: Sequence[Arm]) -> Plot:
    """Returns each arm's difference to its baseline by two of its features, hatched where its interval covers zero.

    The features, those of `arms`, are position and weight of the heads where both vary, else the first two that do; the
    values of others make a panel each. No frames where fewer than two vary.
    """
    shown = {arm.group: arm for arm in arms}
    rows = [
        row._replace(arm=shown[row.arm.group])
        for row in headline.rows
        if row.verdict is not None and not is_plain(row.arm.config)
    ]
    axes = varied([row.arm for row in rows])
    unit = ", points" if is_share(headline.metric) else ""
    note = (
        "Mean paired difference to training without heads; hatched where its interval, which allows for the number of "
        "arms, covers zero."
    )
    plot = Plot("heat_map", "Where and how strong", note, "", [], scale="diverging")
    if len(axes) < 2:
        return plot
    down, across, *others = axes
    if not all(axis in row.arm.features for row in rows for axis in (down, across)):
        return plot
    groups: dict[str, list[Row]] = {}
    for row in rows:
        label = ", ".join(f"{key}={row.arm.features.get(key, '-')}" for key in others)
        groups.setdefault(label, []).append(row)
    panels = [
        Panel(label, grid=_grid(group, down, across, headline.metric))
        for label, group in itertools.islice(groups.items(), _PANELS)
    ]
    title = "Where and how strong" if (down, across) == ("at", "weight") else f"Difference by {down} and {across}"
    label = f"difference in {headline.split} {headline.metric}{unit}"
    return plot._replace(title=title, x_label=across, frames=[Frame("", label, panels)])


def _grid(rows: Sequence[Row], down: str, across: str, metric: str) -> Grid:
    names = _ordered([row.arm.features[down] for row in rows])
    columns = _ordered([row.arm.features[across] for row in rows])
    cells = {(str(row.arm.features[down]), str(row.arm.features[across])): row for row in rows}
    values: list[list[float | None]] = []
    hatched, texts = [], []
    for name in names:
        found = [cells.get((name, column)) for column in columns]
        differences = [row.verdict.paired.difference if row and row.verdict else None for row in found]
        values.append([scale(metric) * d.value if d else None for d in differences])
        hatched.append([bool(d and d.low <= 0 <= d.high) for d in differences])
        digits = 1 if is_share(metric) else 3
        texts.append([
            f"{scale(metric) * d.value:+.{digits}f} (n={d.n})" if d else "" for d in differences
        ])  # fmt: skip
    return Grid(names, columns, values, hatched, texts)


def _ordered(values: Sequence[Any]) -> list[str]:
    numeric = all(isinstance(value, int | float) for value in values)
    unique = {str(value): value for value in values}
    return sorted(unique, key=lambda name: unique[name]) if numeric else list(unique)
