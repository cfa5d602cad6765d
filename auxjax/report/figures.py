"""The figures on paper: the same plots with matplotlib, as PNG and SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from auxjax.report import palette
from auxjax.report.content import Content
from auxjax.report.plots import Frame, Grid, Panel, Plot, thinned

Style = tuple[str, Any]
# Text stays text in SVG, small enough to stand beside a paper's own.
_RC: Any = {
    "font.size": 9.0, "axes.titlesize": 9.0, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#e4e6e8", "grid.linewidth": 0.6, "axes.edgecolor": "#8a8f94", "axes.axisbelow": True,
    "svg.fonttype": "none", "svg.hashsalt": "auxjax", "hatch.linewidth": 0.6, "legend.frameon": False,
    # What a run is called is no formula.
    "text.parse_math": False,
}  # fmt: skip
_COLUMNS, _PANELS = 3, 9


def write(content: Content, folder: Path) -> None:
    """Writes every plot as NAME.png and NAME.svg."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    styles = arm_styles(content)
    with matplotlib.rc_context(_RC):
        for plot in content.plots:
            made = draw(thinned(plot, 500), styles)
            # Laid out once for both files: that is most of the time.
            made.draw_without_rendering()
            made.set_layout_engine("none")
            made.savefig(folder / f"{plot.name}.png", dpi=140)
            made.savefig(folder / f"{plot.name}.svg", metadata={"Date": None})


def arm_styles(content: Content) -> dict[str, Style]:
    """Returns each arm's colour and dashes, the baselines' grey."""
    others = [arm.name for arm in content.arms if arm.name != arm.baseline]
    styles: dict[str, Style] = {arm.name: (palette.BASELINE, "-") for arm in content.arms}
    for number, name in enumerate(others):
        styles[name] = _dashed(*palette.line(number))
    return styles


def draw(plot: Plot, styles: Mapping[str, Style]) -> Any:
    """Returns the figure of a plot, nine panels at most.

    Of frames of one panel the first, the middle and the last are drawn, of frames of several the last; of the learning
    curves every metric.
    """
    from matplotlib.figure import Figure

    several = max(len(frame.panels) for frame in plot.frames) > 1
    last = len(plot.frames) - 1
    frames = [plot.frames[i] for i in ({last} if several else sorted({0, (last + 1) // 2, last}))]
    frames = list(plot.frames) if plot.name == "learning_curves" else frames
    cells = [(frame, panel) for frame in frames for panel in frame.panels][:_PANELS]
    columns = min(_COLUMNS, len(cells))
    rows = math.ceil(len(cells) / columns)
    grids = any(panel.grid for _, panel in cells)
    page = Figure(figsize=(4.2 * columns + 0.6 * grids, (2.4 if grids else 3.1) * rows + 0.6), layout="constrained")
    axes = list(page.subplots(rows, columns, squeeze=False).ravel())
    span = _span(plot)
    for ax, (frame, panel) in zip(axes, cells, strict=False):
        title = ", ".join(part for part in (frame.label if len(frames) > 1 else "", panel.title) if part)
        ax.set_title(_short(title), loc="left")
        if panel.grid:
            _grid(ax, panel.grid, plot, span)
        else:
            _lines(ax, frame, panel, plot, styles)
    for ax in axes[len(cells) :]:
        ax.set_visible(False)
    if grids:
        _colour_bar(page, axes[: len(cells)], plot, span)
    else:
        _legend(page, axes[: len(cells)], columns)
    page.suptitle(plot.title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return page


def _lines(ax: Any, frame: Frame, panel: Panel, plot: Plot, styles: Mapping[str, Style]) -> None:
    labels = list(dict.fromkeys(series.label for series in panel.series))
    for series in panel.series:
        own = _loss_style(series.label, labels)
        colour, dashes = styles.get(series.arm, own) if plot.colours == "arm" else own
        x, y = np.asarray(series.x, np.float64), _floats(series.y)
        y = np.where(y > 0, y, np.nan) if plot.log else y
        if series.run:
            ax.plot(x, y, color=colour, linewidth=0.5, alpha=0.35, zorder=1)
            continue
        marker = "o" if len(x) < 12 or plot.categories else None
        ax.plot(
            x, y, color=colour, linestyle=dashes, linewidth=1.6, marker=marker, markersize=3, label=_short(series.label)
        )
        if len(series.low):
            ax.fill_between(x, _floats(series.low), _floats(series.high), color=colour, alpha=0.14, linewidth=0)
    if frame.target is not None:
        ax.axhline(frame.target, color="#8a8f94", linewidth=0.8, linestyle=(0, (1, 2)))
    if plot.log:
        ax.set_yscale("log")
        ax.minorticks_off()
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _limit(ax, [other for other in plot.frames if other.y_label == frame.y_label], plot.log)
    if plot.categories:
        ax.set_xticks(range(len(plot.categories)), [_short(name, 14) for name in plot.categories])
        ax.tick_params(axis="x", rotation=35 if len(plot.categories) > 4 else 0)
    ax.set(xlabel=plot.x_label, ylabel=frame.y_label)


def _loss_style(label: str, labels: Sequence[str]) -> Style:
    """Returns grey for main and total, so that the heads have the colours."""
    if label in ("main", "total"):
        return palette.BASELINE, (0, (2, 2)) if label == "total" else "-"
    return _dashed(*palette.line([other for other in labels if other not in ("main", "total")].index(label)))


def _dashed(colour: str, dashes: str) -> Style:
    return colour, (0, tuple(map(int, dashes.split()))) if dashes else "-"


def _legend(page: Any, axes: Sequence[Any], columns: int) -> None:
    """Writes one legend for all panels below them, where there is more than one line to tell apart."""
    found = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if len(found) > 1:
        page.legend(found.values(), found.keys(), loc="outside lower center", ncols=2 * columns, fontsize=8)


def _limit(ax: Any, frames: Sequence[Frame], log: bool) -> None:
    """Gives all panels of all frames one scale with their lines in view: the wide bands of few runs may leave it."""
    series = [line for frame in frames for panel in frame.panels for line in panel.series]
    values, bounds = (
        np.concatenate([_floats(column) for line in series for column in columns(line)] or [np.zeros(0)])
        for columns in (lambda line: [line.y], lambda line: [line.low, line.high])
    )
    values = values[np.isfinite(values) & ((values > 0) | (not log))]
    if values.size and log:
        ax.set_ylim(values.min() / 1.3, values.max() * 1.3)
    elif values.size:
        low, high = float(values.min()), float(values.max())
        room = (high - low) * 0.3 or abs(high) * 0.1 or 1.0
        bounds = np.concatenate([bounds[np.isfinite(bounds)], values])
        low, high = max(low - room, float(bounds.min())), min(high + room, float(bounds.max()))
        low, high = (max(low, 0.0), min(high, 100.0)) if frames[0].y_label.endswith("%") else (low, high)
        ax.set_ylim(low - 0.05 * (high - low or room), high + 0.05 * (high - low or room))


def _grid(ax: Any, grid: Grid, plot: Plot, span: tuple[float, float]) -> None:
    colours = _scale(plot)
    values = np.array([_floats(row) for row in grid.values])
    ax.imshow(values, cmap=colours, vmin=span[0], vmax=span[1], aspect="auto")
    ax.grid(False)
    _ticks(ax.set_yticks, grid.rows, 20)
    _ticks(ax.set_xticks, grid.columns, 9)
    ax.set_xlabel(plot.x_label)
    if plot.name != "gradient_profile_over_time":
        ax.tick_params(axis="x", rotation=35 if max(map(len, grid.columns)) > 6 else 0)
    for row, column in np.argwhere(np.array(grid.hatched, bool)) if len(grid.hatched) else ():
        from matplotlib.patches import Rectangle

        ax.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, hatch="////", edgecolor="#7c8288", linewidth=0)
        )
    for row, texts in enumerate(grid.texts or _written(values)):
        for column, text in enumerate(texts):
            box = {"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 1.5}
            ax.text(column, row, text, ha="center", va="center", fontsize=7.5, bbox=box)


def _written(values: np.ndarray) -> list[list[str]]:
    """Returns a small grid's values as text, nothing for a large one."""
    if max(values.shape) > 8:
        return []
    return [["" if np.isnan(value) else f"{value:.2g}" for value in row] for row in values]


def _ticks(setter: Any, names: Sequence[str], most: int) -> None:
    kept = np.unique(np.linspace(0, len(names) - 1, min(len(names), most)).round().astype(int))
    setter(kept, [_short(names[i], 16) for i in kept])


def _colour_bar(page: Any, axes: Sequence[Any], plot: Plot, span: tuple[float, float]) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = page.colorbar(ScalarMappable(Normalize(*span), _scale(plot)), ax=axes, shrink=0.8, aspect=30)
    bar.set_label(plot.frames[0].y_label)
    bar.outline.set_visible(False)


def _scale(plot: Plot) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    colours = palette.DIVERGING if plot.scale == "diverging" else palette.SEQUENTIAL
    return LinearSegmentedColormap.from_list(plot.scale, colours)


def _span(plot: Plot) -> tuple[float, float]:
    """Returns the values at the ends of a plot's colours, one span for all panels, symmetric where they diverge."""
    grids = [panel.grid for frame in plot.frames for panel in frame.panels if panel.grid]
    values = [value for grid in grids for row in grid.values for value in row if value is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if plot.scale == "diverging":
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _short(text: str, length: int = 44) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
