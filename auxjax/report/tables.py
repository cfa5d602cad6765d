"""The tables as text: cells with the number they sort by, Markdown, and a CSV file with a row a run."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from auxjax.report.arms import Arm
from auxjax.report.curves import is_share
from auxjax.report.headline import Headline, Row, scale
from auxjax.report.runs import Run
from auxjax.statistics import Estimate, MedianTime
from auxjax.statistics.verdicts import is_least


class Cell(NamedTuple):
    """What is shown, and what its column sorts by; None sorts last."""

    text: str
    sort: float | str | None


class Column(NamedTuple):
    """A column's heading, what it means, and whether it holds numbers."""

    label: str
    meaning: str
    number: bool = True


class Table(NamedTuple):
    """Columns and rows of cells; `marks` name each row: its arm or its run."""

    columns: list[Column]
    rows: list[list[Cell]]
    marks: list[str]


UNKNOWN = Cell("-", None)


def headline_table(headline: Headline) -> Table:
    """Returns the headline table; columns that say nothing about any arm are left out."""
    made = [(column, [make(row, headline) for row in headline.rows]) for column, make in _columns(headline)]
    return said(made, [row.arm.name for row in headline.rows])


def said(columns: Sequence[tuple[Column, Sequence[Cell]]], marks: list[str]) -> Table:
    """Returns the table of those columns, each with its cells, that say something about any row."""
    kept = [(column, cells) for column, cells in columns if any(cell != UNKNOWN for cell in cells)]
    rows = [list(cells) for cells in zip(*(cells for _, cells in kept), strict=True)]
    return Table([column for column, _ in kept], rows, marks)


def runs_table(runs: Sequence[Run], arms: Sequence[Arm], values: Mapping[str, float | None], metric: str) -> Table:
    """Returns a row a run: arm, seed, status with its reason, last step and the metric."""
    arm_of = {run.name: arm.name for arm in arms for run in arm.runs}
    unit = ", %" if is_share(metric) else ""
    columns = [
        Column("run", "the run's folder", False), Column("arm", "runs that differ by seed alone", False),
        Column("seed", "seed of parameters, data order and dropout"), Column("status", "what the folder says", False),
        Column("last step", "last recorded step"), Column(metric + unit, "by the stated rule"),
    ]  # fmt: skip
    rows = []
    for run in runs:
        value = values.get(run.name)
        shown = Cell(_number(scale(metric) * value, metric), value) if value is not None else UNKNOWN
        status = Cell(run.status + (f": {run.problem}" if run.problem else ""), run.status)
        arm = arm_of.get(run.name, "-")
        rows.append([
            Cell(run.name, run.name), Cell(arm, arm), Cell(str(run.seed), run.seed), status,
            Cell(f"{run.last_step:,}", run.last_step), shown,
        ])  # fmt: skip
    return Table(columns, rows, [run.name for run in runs])


def markdown(table: Table) -> str:
    """Returns an aligned Markdown table."""
    lines = [[_escaped(column.label) for column in table.columns]]
    lines += [[_escaped(cell.text) for cell in row] for row in table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    padded = [
        [
            cell.rjust(width) if column.number else cell.ljust(width)
            for cell, width, column in zip(line, widths, table.columns, strict=True)
        ]
        for line in lines
    ]
    text = [f"| {' | '.join(line)} |" for line in padded]
    rules = ["-" * (w + 1) + (":" if c.number else "-") for w, c in zip(widths, table.columns, strict=True)]
    return "\n".join([text[0], f"|{'|'.join(rules)}|", *text[1:]])


def runs_csv(runs: Sequence[Run], arms: Sequence[Arm]) -> str:
    """Returns CSV, a row a run: folder, arm, seed, status, problem, last step, overridden keys, metrics of DONE."""
    arm_of = {run.name: arm for arm in arms for run in arm.runs}
    keys = sorted({key for run in runs for key in run.overrides if key != "seed"})
    metrics = sorted({key for run in runs for key in run.evaluation if key != "step"})
    fixed = ["run", "arm", "group", "seed", "status", "problem", "last_step"]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*fixed, *keys, *metrics])
    for run in runs:
        arm = arm_of.get(run.name)
        row: list[Any] = [run.name, arm.name if arm else "", arm.group if arm else "", run.seed, run.status]
        row += [run.problem, run.last_step, *(run.overrides.get(key, "") for key in keys)]
        writer.writerow([_harmless(cell) for cell in [*row, *(run.evaluation.get(key, "") for key in metrics)]])
    return file.getvalue()


def _columns(headline: Headline) -> list[tuple[Column, Any]]:
    share, metric = is_share(headline.metric), headline.metric
    unit, points = (", %", ", points") if share else ("", "")
    to = goal(headline.target, metric)
    name = f"{headline.split} {metric.replace('accuracy/main', 'accuracy').replace('/', ' of ')}"
    return [
        (Column("arm", "runs that differ by seed alone", False), lambda row, _: Cell(row.arm.name, row.arm.name)),
        (Column("n", "runs that have a value"), lambda row, _: Cell(str(row.n), row.n)),
        (Column(name + unit, "mean over seeds and its 95 % interval"), _value),
        (Column(f"difference{points}", "arm minus baseline, paired by seed, its interval for all arms"), _difference),
        (Column("p", "sign-flip test over pairs, by Holm for the number of arms; least: of all possible"), _p_value),
        (Column(f"steps to {to}", "median over seeds, and how many runs reached it"), lambda row, _: steps(row.times)),
        (Column("speed-up", "baseline's steps to the target over the arm's, with its interval"), _speed_up),
        (Column(f"cost to {to}", "the median steps' time as measured, and FLOPs of training"), _cost),
        (Column("step time", "seconds of a step over the baseline's"), lambda row, _: _ratio(row.seconds)),
        (Column("step FLOPs", "FLOPs of a training step over the baseline's"), lambda row, _: _ratio(row.flops)),
        (Column("parameters shipped", "without heads; those that heads add while training"), _parameters),
        (Column("FLOPs shipped", "of one example's inference without heads"), _flops),
    ]  # fmt: skip


def _value(row: Row, headline: Headline) -> Cell:
    return estimate(row.value, headline.metric, "") if row.value else UNKNOWN


def _difference(row: Row, headline: Headline) -> Cell:
    return estimate(row.verdict.paired.difference, headline.metric, "+") if row.verdict else UNKNOWN


def _p_value(row: Row, headline: Headline) -> Cell:
    p = row.verdict.paired.p_value if row.verdict else None
    if row.verdict is None or p is None:
        return UNKNOWN
    least = " (least)" if is_least(row.verdict.paired) else ""
    return Cell(f"{p:.3f}{least}" if p >= 0.001 else "< 0.001", p)


def goal(target: float, metric: str) -> str:
    """Returns a target as it is written, shares of 1 in percent."""
    return f"{100 * target:g} %" if is_share(metric) else f"{target:g}"


def steps(times: MedianTime | None) -> Cell:
    """Returns a median number of steps, and how many runs came so far."""
    if times is None:
        return UNKNOWN
    reached = f"{times.reached} of {times.n}"
    if times.value is None:
        return Cell(f"not reached ({reached})", math.inf if times.reached else None)
    return Cell(f"{times.value:,.0f} ({reached})", times.value)


def _cost(row: Row, headline: Headline) -> Cell:
    if row.times is None or row.times.value is None or row.seconds_per_step is None:
        return UNKNOWN
    seconds, shown = row.times.value * row.seconds_per_step, ""
    if row.costs is not None:
        shown = f", {engineering(row.times.value * row.costs.train_flops * row.costs.batch_size)}FLOP"
    return Cell(f"{seconds:,.3g} s{shown}", seconds)


def _speed_up(row: Row, headline: Headline) -> Cell:
    ratio = row.speed_up.ratio if row.speed_up else None
    return UNKNOWN if ratio is None else speed_up(ratio)


def speed_up(ratio: Estimate) -> Cell:
    """Returns how many times sooner, with its interval where that has an end."""
    bounds = f" [{ratio.low:.2f}, {ratio.high:.2f}]" if math.isfinite(ratio.high) else ""
    return Cell(f"{ratio.value:.2f}x{bounds}", ratio.value)


def _ratio(value: float | None) -> Cell:
    return Cell(f"{value:.2f}x", value) if value is not None else UNKNOWN


def _parameters(row: Row, headline: Headline) -> Cell:
    if row.costs is None:
        return UNKNOWN
    heads = row.costs.train_params - row.costs.stripped_params
    return Cell(f"{row.costs.stripped_params:,}" + (f" (+{heads:,})" if heads else ""), row.costs.stripped_params)


def _flops(row: Row, headline: Headline) -> Cell:
    return Cell(engineering(row.costs.stripped_flops), row.costs.stripped_flops) if row.costs else UNKNOWN


def estimate(found: Estimate, metric: str, sign: str, by: float | None = None) -> Cell:
    """Returns a value with its interval, shares of 1 in percent, or as `by` times what they are."""
    by = scale(metric) if by is None else by
    bounds = [_number(by * bound, metric, sign) for bound in (found.low, found.high) if math.isfinite(bound)]
    interval = f" [{', '.join(bounds)}]" if len(bounds) == 2 else ""
    return Cell(_number(by * found.value, metric, sign) + interval, by * found.value)


def _number(value: float, metric: str, sign: str = "") -> str:
    return f"{value:{sign}z.{2 if is_share(metric) else 4}f}"


def engineering(value: float) -> str:
    """Returns a count with k, M, G or T and three digits or more."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.4g} {letter}"
    return f"{value:.4g}"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _harmless(cell: Any) -> Any:
    """Returns a cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
