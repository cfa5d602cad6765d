"""Figures of the diagnostics: one for each that is recorded, of what was recorded; of what cannot be drawn, a line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from auxjax.diagnostics.registry import DIAGNOSTICS
from auxjax.report import read_runs
from auxjax.report.arms import Arm, make_arms
from auxjax.report.content import gather
from auxjax.report.diagnosed import plots
from auxjax.report.plots import Plot
from tests.report.made_runs import make_ablation, make_run


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> list[Arm]:
    """Arms whose runs recorded every diagnostic."""
    folder = make_ablation(tmp_path_factory.mktemp("made"), weights=(0.3,), seeds=2, points=4, diagnostics=True)
    return make_arms(read_runs([folder]), {})[0]


def only(arms: Sequence[Arm], name: str) -> list[Arm]:
    """The arms as if their runs had recorded one diagnostic alone."""
    return [
        arm._replace(
            runs=[run._replace(diagnostics=[r for r in run.diagnostics if r["diagnostic"] == name]) for run in arm.runs]
        )
        for arm in arms
    ]


@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_every_diagnostic_has_a_figure(name: str, arms: list[Arm]) -> None:
    those = only(arms, name)
    assert any(run.diagnostics for arm in those for run in arm.runs), f"made_runs.py writes no record of {name}"
    drawn, notes = plots(those)
    assert drawn and not notes


def test_the_figures_of_all_diagnostics(arms: list[Arm]) -> None:
    drawn, notes = plots(arms)
    assert not notes
    assert [plot.name for plot in drawn] == [
        "gradient_norm_by_layer", "gradient_profile_over_time", "gradient_by_loss", "cosine_over_time",
        "similarity_matrix", "variance_over_time", "variance_by_loss", "paired_variance_over_time", "hessian_over_time",
        "hessian_at_the_end", "ntk_over_time", "ntk_by_loss", "ntk_at_the_end", "probes_by_layer", "exits_by_layer",
        "cka_matrix", "landscape_at_the_end",
    ]  # fmt: skip


def test_a_damaged_record_and_one_without_a_figure_have_a_line(tmp_path: Path) -> None:
    folder = make_ablation(tmp_path / "ablation", weights=(0.3,), seeds=2, points=4, diagnostics=True)
    path = next(folder.glob("runs/*/diagnostics.jsonl"))
    damaged = '{"step": 700, "diagnostic": "variance", "losses": "total"}\n{"step": 700, "diagnostic": "of my own"}\n'
    path.write_text(path.read_text() + damaged)
    content = gather([folder])
    assert not {"variance_over_time", "variance_by_loss"} & {plot.name for plot in content.plots}
    assert any(text.startswith("The records of variance could not be drawn") for text in content.unsupported)
    assert "Records of 'of my own' are in diagnostics.jsonl, and have no figure." in content.unsupported


def figure(folder: Path, name: str, *records: Mapping[str, Any]) -> Plot:
    """The figure of that name of runs of one arm with a head, a run for each record."""
    for seed, record in enumerate(records):
        run = make_run(folder / str(seed), {"aux1": ("layer_1", 0.3)}, seed, 0.8, points=2)
        (run / "diagnostics.jsonl").write_text(json.dumps({"step": 1, **record}) + "\n")
    return next(plot for plot in gather([folder]).plots if plot.name == name)


def paired(value: float | None, factor: float) -> dict[str, Any]:
    """A record whose ratios are a number, with an interval of a factor on both sides."""
    low, high = (None, None) if value is None else (value / factor, value * factor)
    ratio = {key: {"value": value, "low": low, "high": high} for key in ("trace", "noise_to_signal", "equal_norm")}
    return {"diagnostic": "paired_variance", "ratio": ratio}


def test_paired_variances_are_a_geometric_mean_over_seeds_and_one_seeds_is_as_recorded(tmp_path: Path) -> None:
    plot = figure(tmp_path / "one", "paired_variance_over_time", paired(0.7, 1.1))
    labels = ["ratio at equal norms", "ratio of noise to signal", "ratio as it is"]
    assert [(frame.label, len(frame.panels[0].series)) for frame in plot.frames] == [(label, 1) for label in labels]
    (line,) = plot.frames[0].panels[0].series
    assert [*line.y, *line.low, *line.high] == pytest.approx([0.7, 0.7 / 1.1, 0.7 * 1.1])
    three = [paired(0.5, 1.1), paired(None, 1.1), paired(2.0, 1.1)]
    (line,) = figure(tmp_path / "more", "paired_variance_over_time", *three).frames[0].panels[0].series
    # Student's t with one degree of freedom: 12.7 standard errors, here log(2), on both sides.
    bound = math.exp(12.7062047 * math.log(2))
    assert [*line.y, *line.low, *line.high] == pytest.approx([1.0, 1 / bound, bound])


def test_variances_are_by_loss_and_over_seeds(tmp_path: Path) -> None:
    record = {"diagnostic": "variance", "losses": ["main", "aux1", "total"], "layers": []}
    records = [{**record, "trace": [1.0, 2.0 + seed, None], "noise_scale": [3.0, 4.0, 5.0]} for seed in (0, 1)]
    plot = figure(tmp_path, "variance_by_loss", *records)
    (panel,) = plot.frames[0].panels
    assert {line.label: list(line.y) for line in panel.series} == {"main": [1.0], "aux1": [2.5], "total": [None]}


def test_a_gradients_profile_is_the_geometric_mean_over_seeds(tmp_path: Path) -> None:
    for seed, norm in enumerate((1.0, 100.0)):
        folder = make_run(tmp_path / str(seed), {}, seed, 0.8, points=2)
        record = {"step": 1, "diagnostic": "gradient_norm", "layers": ["a", "b"], "losses": ["main", "total"]}
        values = [[norm, 4.0], [norm, 4.0]]
        (folder / "diagnostics.jsonl").write_text(json.dumps({**record, "norm": values}) + "\n")
    plot = next(plot for plot in gather([tmp_path]).plots if plot.name == "gradient_norm_by_layer")
    (line,) = plot.frames[0].panels[0].series
    assert plot.categories == ["a", "b"] and list(line.y) == pytest.approx([10.0, 4.0])
