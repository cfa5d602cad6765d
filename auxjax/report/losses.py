"""Main's loss beside the baseline's along the training: how much less it is, and how much sooner it gets there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from auxjax.report import curves
from auxjax.report.arms import Arm
from auxjax.report.runs import DONE
from auxjax.report.tables import UNKNOWN, Cell, Column, Table, estimate, speed_up
from auxjax.statistics import LossRow, loss_table
from auxjax.statistics.curves import Curve

METRIC = "loss/main"
# Shares of the training at which the losses are compared, each at the nearest evaluation.
_AT = (0.25, 0.5, 0.75, 1.0)


def table(arms: Sequence[Arm], split: str) -> Table:
    """Returns a row for each arm but baselines and each quarter of the training; none where losses were not recorded.

    The losses are those of main alone, on the split that was evaluated while training.
    """
    columns = [
        Column("arm", "runs that differ by seed alone", False), Column("step", "an evaluation of all runs"),
        Column("baseline's loss", "main's, mean over common seeds that came to their end, 95 % interval"),
        Column("arm's loss", "main's, of the same seeds"),
        Column("reduction, %", "how much less the arm's is, with its 95 % interval"),
        Column("sooner", "steps to the baseline's loss of this row: the baseline's over the arm's, 95 % interval"),
    ]  # fmt: skip
    of = {arm.name: _curves(arm, split) for arm in arms}
    rows, marks = [], []
    for arm in arms:
        if arm.name == arm.baseline:
            continue
        for row in _compared(of[arm.baseline], of[arm.name]):
            rows.append(_cells(arm, row))
            marks.append(arm.name)
    return Table(columns, rows, marks)


def _compared(baseline: dict[int, Curve], arm: dict[int, Curve]) -> list[LossRow]:
    if not set(baseline) & set(arm):
        return []
    everywhere = set.intersection(*(set(steps.tolist()) for steps, _ in (*baseline.values(), *arm.values())))
    steps = np.array(sorted(everywhere))
    if not len(steps):
        return []
    at = dict.fromkeys(float(steps[np.abs(steps - share * steps[-1]).argmin()]) for share in _AT)
    return loss_table(baseline, arm, list(at))


def _curves(arm: Arm, split: str) -> dict[int, Curve]:
    """Returns {seed: (steps, losses)} of the runs that came to their end."""
    found = {}
    for run in arm.runs:
        steps, losses = curves.points(run, curves.evaluated_split(arm.runs, split), METRIC)
        if run.status == DONE and steps and np.isfinite(losses).all():
            found[run.seed] = (np.array(steps), np.array(losses))
    return found


def _cells(arm: Arm, row: LossRow) -> list[Cell]:
    ratio = row.speed_up.ratio
    return [
        Cell(arm.name, arm.name), Cell(f"{row.step:,.0f}", row.step), estimate(row.baseline, METRIC, ""),
        estimate(row.arm, METRIC, ""), estimate(row.reduction, "accuracy/", "+", by=1),
        UNKNOWN if ratio is None else speed_up(ratio),
    ]  # fmt: skip
