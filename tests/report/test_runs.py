"""Runs are found wherever they lie, and none is dropped: what is wrong with one is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from auxjax.errors import AuxjaxError
from auxjax.report import read_runs
from auxjax.report.curves import final
from tests.report.made_runs import make_run

HEADS = {"aux1": ("layer_1", 0.3)}


def test_runs_are_found_at_any_depth_and_once(tmp_path: Path) -> None:
    make_run(tmp_path / "ablation" / "runs" / "b", HEADS, 1, 0.8)
    make_run(tmp_path / "ablation" / "runs" / "a", {}, 0, 0.7)
    (tmp_path / "ablation" / "report").mkdir()
    runs = read_runs([tmp_path / "ablation" / "runs" / "b", tmp_path / "ablation", tmp_path])
    assert [(run.folder.name, run.seed, run.status) for run in runs] == [("b", 1, "done"), ("a", 0, "done")]
    assert [run.name for run in read_runs([tmp_path / "ablation"])] == ["a", "b"]


def test_runs_of_one_name_in_two_folders_keep_names_apart(tmp_path: Path) -> None:
    for parent in ("first", "second"):
        make_run(tmp_path / parent / "seed_0", {}, 0, 0.8)
    names = [run.name for run in read_runs([tmp_path / "first", tmp_path / "second"])]
    assert len(set(names)) == 2 and all(name.endswith("seed_0") for name in names)


def test_done_diverged_failed_and_unfinished_runs_count_by_the_rule(tmp_path: Path) -> None:
    done = make_run(tmp_path / "done", {}, 0, 0.8)
    failed = make_run(tmp_path / "failed", {}, 1, 0.8, stop=300)
    (failed / "FAILED").write_text(json.dumps({"error": "out of memory", "step": 310, "status": "failed"}))
    make_run(tmp_path / "unfinished", {}, 2, 0.8, stop=200)
    early = make_run(tmp_path / "never evaluated", {}, 3, 0.8, stop=0)
    (early / "FAILED").write_text("{")
    diverged = make_run(tmp_path / "diverged", {}, 4, 0.8, stop=300)
    told = {"error": "loss/main is nan at step 310", "step": 310, "status": "diverged"}
    (diverged / "FAILED").write_text(json.dumps(told))
    runs = {run.folder.name: run for run in read_runs([tmp_path])}
    assert {name: run.status for name, run in runs.items()} == {
        "done": "done", "failed": "failed", "unfinished": "unfinished", "never evaluated": "failed",
        "diverged": "diverged",
    }  # fmt: skip
    assert runs["failed"].problem == "failed at step 310: out of memory"
    assert runs["diverged"].problem == "diverged at step 310: loss/main is nan at step 310"
    assert runs["unfinished"].problem == "unfinished at step 200 of 600"
    assert (
        final(runs["done"], "test", "accuracy/main") == json.loads((done / "DONE").read_text())["accuracy/main"] == 0.8
    )
    assert final(runs["diverged"], "test", "accuracy/main") == 0.1  # chance among ten classes
    first = json.loads((diverged / "metrics.jsonl").read_text().splitlines()[1])
    assert final(runs["diverged"], "test", "loss/main") == first["loss/main"]  # its worst
    shown = [record["accuracy/main"] for record in runs["diverged"].history if "accuracy/main" in record]
    assert final(runs["diverged"]._replace(dataset={}), "test", "accuracy/main") == min(shown)
    assert runs["failed"].last_step == 300
    assert final(runs["failed"], "test", "accuracy/main") is None
    assert final(runs["unfinished"], "test", "accuracy/main") is None
    assert final(runs["never evaluated"], "test", "accuracy/main") is None


def test_a_failure_outweighs_what_an_earlier_attempt_left(tmp_path: Path) -> None:
    (make_run(tmp_path / "run", {}, 0, 0.8) / "FAILED").write_text('{"error": "no space", "step": 600}')
    assert read_runs([tmp_path])[0].status == "failed"


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("config.json", "{", "config.json is no JSON"),
        ("config.json", "[1]", "config.json is no JSON object"),
        ("config.json", '{"heads": 3}', "config.json: heads is no object"),
        ("config.json", '{"heads": {"aux1": 0.3}}', "config.json: heads.aux1 is no object"),
        ("config.json", None, "there is no config.json"),
        ("DONE", "\x00", "DONE is no JSON"),
        ("diagnostics.jsonl", "nonsense\n{}\n", "diagnostics.jsonl: 1 unreadable lines, the first is line 1"),
    ],
)
def test_damage_is_named(tmp_path: Path, name: str, text: str | None, problem: str) -> None:
    folder = make_run(tmp_path / "run", HEADS, 0, 0.8)
    (folder / name).unlink() if text is None else (folder / name).write_text(text)
    (run,) = read_runs([tmp_path])
    assert (run.status, run.problem) == ("damaged", problem)
    assert len(run.history) == 60


def test_damaged_lines_are_skipped_and_a_torn_last_one_is_no_damage(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {}, 0, 0.8)
    path = folder / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 610, "sp')
    (run,) = read_runs([tmp_path])
    assert (run.status, len(run.history)) == ("done", 60)
    path.write_text("\x00\x00\n" + whole.replace('"step": 40,', '"step": "x",', 1))
    (run,) = read_runs([tmp_path])
    assert (run.status, len(run.history)) == ("damaged", 59)
    assert run.problem == "metrics.jsonl: 2 unreadable lines, the first is line 1"
    assert final(run, "test", "accuracy/main") == 0.8


def test_no_folder_and_no_run_are_errors_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(AuxjaxError, match="no folder"):
        read_runs([tmp_path / "nowhere"])
    with pytest.raises(AuxjaxError, match="no run in"):
        read_runs([tmp_path])
