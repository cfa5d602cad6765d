"""All that a report says, gathered once from the runs and written in several forms."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from auxjax.errors import AuxjaxError, nearest
from auxjax.report import curves, diagnosed, headline, losses, positions, progress, tables, tuning, words
from auxjax.report.arms import Arm, make_arms, without
from auxjax.report.plots import Plot
from auxjax.report.runs import Run, read_ablation, read_runs

# The accuracies whose times are told; the last is the headline's.
TARGETS = (0.75, 0.8, 0.85)


class Content(NamedTuple):
    """The report's title, its runs and arms, tables, sentences and figures."""

    title: str
    runs: list[Run]
    arms: list[Arm]
    headline: headline.Headline
    table: tables.Table
    runs_table: tables.Table
    progress_table: tables.Table
    losses_table: tables.Table
    supported: list[tuple[str, str, str]]
    unsupported: list[str]
    rules: list[str]
    plots: list[Plot]


def gather(
    paths: Sequence[str | os.PathLike[str]],
    *,
    baseline: str = "",
    targets: Sequence[float] = TARGETS,
    metric: str = "accuracy/main",
    split: str = "test",
) -> Content:
    """Returns the content of a report on the runs in `paths`; nothing is trained or evaluated.

    `targets` are values of the metric whose times are told, in the headline that of the last. Raises AuxjaxError for no
    target, paths without runs, runs without any config, and an unknown baseline, metric or split.
    """
    if not targets:
        raise AuxjaxError("no target given: name a value of the metric, as in --target=0.85")
    runs, ablation = read_runs(paths), read_ablation(paths)
    tuned = tuning.at_best(runs, ablation, split, metric)
    arms, how = make_arms(tuned.runs, ablation, baseline)
    if not arms:
        raise AuxjaxError(f"none of the {len(runs)} runs has a config that can be read; the first: {runs[0].problem}")
    check_metric(runs, split, metric)
    main = headline.make(arms, split, metric, targets[-1])
    # What was chosen for an arm is a result: it is no axis, and an arm at another rate does not go by it.
    untuned = without(arms, tuned.key)
    drawn = [
        curves.learning(arms, split, metric, targets[-1]), positions.heat_map(main, untuned),
        positions.speed_map(main, untuned), curves.exits(arms, split), tuning.plot(tuned, arms, split, metric),
        curves.weights(arms),
    ]  # fmt: skip
    recorded, notes = diagnosed.plots(arms)
    values = {run.name: curves.final(run, split, metric) for run in runs}
    name = ablation.get("name")
    return Content(
        title=str(name) if name else Path(paths[0]).expanduser().resolve().name,
        runs=runs, arms=arms, headline=main,
        table=tables.headline_table(main), runs_table=tables.runs_table(runs, arms, values, metric),
        progress_table=progress.table(main, targets), losses_table=losses.table(arms, split),
        supported=words.supported(main),
        unsupported=[*words.unsupported(main, runs, arms, tuned=bool(tuned.families)), *notes],
        rules=[how, *tuned.notes, *tuning.at_common(tuned, untuned, ablation, split, metric), words.rule(main)],
        plots=[plot for plot in [*drawn, *recorded] if plot.frames],
    )  # fmt: skip


def check_metric(runs: Sequence[Run], split: str, metric: str) -> None:
    """Raises AuxjaxError where no run recorded the metric, or none the split; it names those that were."""
    records = [record for run in runs for record in run.history]
    splits = {str(record["split"]) for record in records} | ({"test"} if any(run.evaluation for run in runs) else set())
    if split not in splits:
        raise AuxjaxError(
            f"no run recorded split {split!r}{nearest(split, splits) or ';'} valid: {', '.join(sorted(splits))}"
        )
    names = {key for record in records if record["split"] == split for key in record} - {"step", "split"}
    names |= {key for run in runs for key in run.evaluation if split == "test"} - {"step"}
    if metric not in names:
        raise AuxjaxError(
            f"no run recorded {metric!r} on {split}{nearest(metric, names) or ';'} valid: {', '.join(sorted(names))}"
        )
