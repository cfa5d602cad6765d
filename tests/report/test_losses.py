"""The table of main's loss along the training, against numbers made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from auxjax.report import losses, tables
from auxjax.report.arms import make_arms
from auxjax.report.runs import read_runs
from tests.report.made_runs import make_run

HEAD = {"aux1": ("layer_1", 0.3)}


def rewrite(folder: Path, by_step: dict[int, float]) -> None:
    """Makes the test losses of main what they are to be, and leaves other steps out."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record["step"] in by_step]
    kept = [r | {"loss/main": by_step[r["step"]]} if r["split"] == "test" else r for r in records]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in kept))


def table(folder: Path) -> tables.Table:
    arms, _ = make_arms(read_runs([folder]), {}, "")
    return losses.table(arms, "test")


def test_losses_reductions_and_steps_to_equal_loss(tmp_path: Path) -> None:
    """The arm is at 1.0 after 150 steps, half way from 1.2 to 0.8, where the baseline is after 400."""
    rewrite(make_run(tmp_path / "bare", {}, 0, 0.8, total=400, points=4), {100: 2.0, 200: 1.6, 300: 1.2, 400: 1.0})
    rewrite(make_run(tmp_path / "head", HEAD, 0, 0.9, total=400, points=4), {100: 1.2, 200: 0.8, 300: 0.6, 400: 0.5})
    rows = [[cell.text for cell in row] for row in table(tmp_path).rows]
    assert [row[1:] for row in rows] == [
        ["100", "2.0000", "1.2000", "+40.00", "1.00x"],
        ["200", "1.6000", "0.8000", "+50.00", "2.00x"],
        ["300", "1.2000", "0.6000", "+50.00", "3.00x"],
        ["400", "1.0000", "0.5000", "+50.00", "2.67x"],
    ]


def test_only_steps_and_seeds_of_both_arms_are_compared(tmp_path: Path) -> None:
    for seed in (0, 1):
        rewrite(make_run(tmp_path / f"bare_{seed}", {}, seed, 0.8, total=400, points=4), {200: 1.0, 400: 0.5})
    rewrite(make_run(tmp_path / "head", HEAD, 1, 0.9, total=400, points=4), {100: 1.0, 200: 0.8, 300: 0.6, 400: 0.45})
    assert [row[1].text for row in table(tmp_path).rows] == ["200", "400"]
    assert [row[4].text for row in table(tmp_path).rows] == ["+20.00", "+10.00"]


@pytest.mark.parametrize("stop", [None, 200])
def test_runs_without_losses_or_an_end_have_no_rows(stop: int | None, tmp_path: Path) -> None:
    make_run(tmp_path / "bare", {}, 0, 0.8, total=400, points=4, stop=stop)
    folder = make_run(tmp_path / "head", HEAD, 0, 0.9, total=400, points=4)
    if stop is None:
        text = (folder / "metrics.jsonl").read_text()
        (folder / "metrics.jsonl").write_text(text.replace('"loss/main"', '"another"'))
    assert table(tmp_path).rows == []
