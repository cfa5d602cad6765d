"""The interactive page: content as JSON inside one file of HTML, CSS and JavaScript that loads nothing else."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable
from importlib import resources
from typing import Any

from auxjax.report import palette
from auxjax.report.arms import varied
from auxjax.report.content import Content
from auxjax.report.headline import scale
from auxjax.report.plots import Grid, Plot, Series, thinned
from auxjax.report.tables import Table

LIMIT = 1_000_000  # bytes of the page
_POINTS = (500, 250, 120, 60, 30)


def page(content: Content) -> str:
    """Returns the page, under 1 MB: lines have at most 500 points, and fewer where many runs need it."""
    for points in _POINTS:
        text = _fill(content, points)
        if len(text.encode()) < LIMIT:
            break
    return text


def _fill(content: Content, points: int) -> str:
    parts = {
        "TITLE": html.escape(content.title),
        "CSS": _file("page.css"),
        "JAVASCRIPT": _file("page.js"),
        "DATA": to_json(data(content, points)),
    }
    text = _file("page.html")
    # In one pass: what a run is called may look like a placeholder.
    pieces = text.split("@@")
    return "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def data(content: Content, points: int) -> dict[str, Any]:
    """Returns what the page draws, in plain JSON types."""
    arms, names = content.arms, {arm.name: number for number, arm in enumerate(content.arms)}
    others = [arm.name for arm in arms if arm.name != arm.baseline]
    styles = {name: palette.line(number) for number, name in enumerate(others)}
    axes = varied(arms)
    return {
        "title": content.title,
        "rules": content.rules,
        "supported": [{"arm": names[arm], "word": word, "text": text} for arm, word, text in content.supported],
        "unsupported": content.unsupported,
        "axes": axes,
        "arms": [
            {
                "name": arm.name, "baseline": arm.name == arm.baseline, "against": names[arm.baseline],
                "colour": styles.get(arm.name, (palette.BASELINE, ""))[0],
                "dash": styles.get(arm.name, ("", ""))[1],
                "features": [_text(arm.features.get(axis)) for axis in axes],
            }
            for arm in arms
        ],
        "runs": [
            {"name": run.name, "arm": next((names[a.name] for a in arms if run in a.runs), -1), "status": run.status}
            for run in content.runs
        ],
        "headline": _table(content.table) | {"forest": _forest(content)},
        "table": _table(content.runs_table),
        "progress": _table(content.progress_table)
        | {"arms": [names[mark] for mark in content.progress_table.marks]},
        "losses": _table(content.losses_table) | {"arms": [names[mark] for mark in content.losses_table.marks]},
        "plots": [_plot(thinned(plot, points), content) for plot in content.plots],
        "palette": {
            "baseline": palette.BASELINE, "lines": palette.LINES, "dashes": palette.DASHES,
            "sequential": palette.SEQUENTIAL, "diverging": palette.DIVERGING,
        },
    }  # fmt: skip


def to_json(value: Any) -> str:
    """Returns JSON that may stand inside a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def short(value: float | None) -> float | int | None:
    """Returns a number with five digits, None for what is not finite."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.5g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def _forest(content: Content) -> list[list[float | int | None] | None]:
    """Returns [difference, low, high] of each row of the headline, None for baselines."""
    by = scale(content.headline.metric)
    found = [row.verdict.paired.difference if row.verdict else None for row in content.headline.rows]
    return [[short(by * v) for v in (d.value, d.low, d.high)] if d else None for d in found]


def _table(table: Table) -> dict[str, Any]:
    return {
        "columns": [[column.label, column.meaning, column.number] for column in table.columns],
        "rows": [[[cell.text, _sortable(cell.sort)] for cell in row] for row in table.rows],
    }


def _sortable(value: float | str | None) -> float | int | str | None:
    return 1e300 if value == math.inf else value if isinstance(value, str) else short(value)


def _plot(plot: Plot, content: Content) -> dict[str, Any]:
    arms = {arm.name: number for number, arm in enumerate(content.arms)}
    runs = {run.name: number for number, run in enumerate(content.runs)}
    xs: dict[tuple[float, ...], int] = {}  # most lines share their steps
    frames = [
        {
            "label": frame.label, "y": frame.y_label, "target": short(frame.target),
            "panels": [
                {
                    "title": panel.title, "arm": arms.get(panel.arm, -1),
                    "lines": [_line(series, arms, runs, xs) for series in panel.series],
                    "grid": _grid(panel.grid) if panel.grid else None,
                }
                for panel in frame.panels
            ],
        }
        for frame in plot.frames
    ]  # fmt: skip
    return {
        "name": plot.name, "title": plot.title, "note": plot.note, "x": plot.x_label, "log": plot.log,
        "categories": list(plot.categories), "colours": plot.colours, "scale": plot.scale,
        "xs": [_shorts(x) for x in xs], "frames": frames,
    }  # fmt: skip


def _line(
    series: Series, arms: dict[str, int], runs: dict[str, int], xs: dict[tuple[float, ...], int]
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "label": series.label, "arm": arms.get(series.arm, -1), "run": runs.get(series.run, -1),
        "x": xs.setdefault(tuple(series.x), len(xs)), "y": _shorts(series.y),
    }  # fmt: skip
    if any(value is not None for value in series.low):
        made |= {"low": _shorts(series.low), "high": _shorts(series.high)}
    return made


def _grid(grid: Grid) -> dict[str, Any]:
    return {
        "rows": list(grid.rows), "columns": list(grid.columns), "values": [_shorts(row) for row in grid.values],
        "hatched": [list(map(int, row)) for row in grid.hatched], "texts": [list(row) for row in grid.texts],
    }  # fmt: skip


def _shorts(values: Iterable[float | None]) -> list[float | int | None]:
    return [short(value) for value in values]


def _text(value: Any) -> str:
    return "-" if value is None else str(value)


def _file(name: str) -> str:
    return (resources.files("auxjax.report") / name).read_text(encoding="utf-8")
