"""Heat maps of weight against position (or any two axes): what a head gains there, and how much sooner."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from auxjax.report.arms import Arm, is_plain, varied
from auxjax.report.curves import is_share
from auxjax.report.headline import Headline, Row, scale
from auxjax.report.plots import Frame, Grid, Panel, Plot
from auxjax.report.tables import goal

_PANELS = 6


class _Cell(NamedTuple):
    """What is coloured, whether it could be nothing, and what is written in it."""

    value: float
    hatched: bool
    text: str


def heat_map(headline: Headline, arms: Sequence[Arm]) -> Plot:
    """Returns each arm's difference to its baseline by two of its features, hatched where its interval covers zero.

    The features, those of `arms`, are position and weight of the heads where both vary, else the first two that do; the
    values of others make a panel each. No frames where fewer than two vary.
    """
    by, digits = scale(headline.metric), 1 if is_share(headline.metric) else 3

    def difference(row: Row) -> _Cell | None:
        if row.verdict is None:
            return None
        found = row.verdict.paired.difference
        text = f"{by * found.value:+.{digits}f} (n={found.n})"
        return _Cell(by * found.value, found.low <= 0 <= found.high, text)

    label = f"difference in {headline.split} {headline.metric}{', points' * is_share(headline.metric)}"
    note = (
        "Mean paired difference to training without heads; hatched where its interval, which allows for the number of "
        "arms, covers zero."
    )
    return _map("heat_map", "Where and how strong", "Difference", note, label, headline, arms, difference)


def speed_map(headline: Headline, arms: Sequence[Arm]) -> Plot:
    """Returns each arm's speed-up to the headline's target in the same places, hatched where its interval covers 1.

    Colours go by its logarithm to base 2: twice as fast is as far from equal as half as fast.
    """

    def speed(row: Row) -> _Cell | None:
        found = row.speed_up.ratio if row.speed_up else None
        if found is None or not math.isfinite(found.value) or found.value <= 0:
            return None
        return _Cell(math.log2(found.value), found.low <= 1 <= found.high, f"{found.value:.2f}x (n={found.n})")

    to = goal(headline.target, headline.metric)
    note = f"The baseline's steps to {to} over the arm's, paired by seed; hatched where its interval covers 1."
    label = f"speed-up to {to}, powers of 2"
    return _map("speed_map", "Where and how much sooner", "Speed-up", note, label, headline, arms, speed)


def _map(
    name: str,
    title: str,
    what: str,
    note: str,
    label: str,
    headline: Headline,
    arms: Sequence[Arm],
    cell: Callable[[Row], _Cell | None],
) -> Plot:
    shown = {arm.group: arm for arm in arms}
    rows = [
        row._replace(arm=shown[row.arm.group])
        for row in headline.rows
        if cell(row) is not None and not is_plain(row.arm.config)
    ]
    plot = Plot(name, title, note, "", [], scale="diverging")
    axes = varied([row.arm for row in rows])
    if len(axes) < 2:
        return plot
    down, across, *others = axes
    if not all(axis in row.arm.features for row in rows for axis in (down, across)):
        return plot
    groups: dict[str, list[Row]] = {}
    for row in rows:
        group = ", ".join(f"{key}={row.arm.features.get(key, '-')}" for key in others)
        groups.setdefault(group, []).append(row)
    panels = [
        Panel(group, grid=_grid(members, down, across, cell))
        for group, members in itertools.islice(groups.items(), _PANELS)
    ]
    title = title if (down, across) == ("at", "weight") else f"{what} by {down} and {across}"
    return plot._replace(title=title, x_label=across, frames=[Frame("", label, panels)])


def _grid(rows: Sequence[Row], down: str, across: str, cell: Callable[[Row], _Cell | None]) -> Grid:
    names = _ordered([row.arm.features[down] for row in rows])
    columns = _ordered([row.arm.features[across] for row in rows])
    found = {(str(row.arm.features[down]), str(row.arm.features[across])): cell(row) for row in rows}
    cells = [[found.get((name, column)) for column in columns] for name in names]
    return Grid(
        names, columns,
        [[each.value if each else None for each in line] for line in cells],
        [[bool(each and each.hatched) for each in line] for line in cells],
        [[each.text if each else "" for each in line] for line in cells],
    )  # fmt: skip


def _ordered(values: Sequence[Any]) -> list[str]:
    numeric = all(isinstance(value, int | float) for value in values)
    unique = {str(value): value for value in values}
    return sorted(unique, key=lambda name: unique[name]) if numeric else list(unique)
