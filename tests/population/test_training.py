"""Members trained together are the runs that they would be alone: numbers, folders, interruptions, divergence."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import auxjax
from auxjax import machine, metrics, preemption, run
from auxjax.errors import AuxjaxError
from auxjax.population import plan, train_members, training
from auxjax.population.members import Member
from tests import ablation_runs
from tests.compilations import counted
from tests.digits_runs import timeless
from tests.population.made import config


def members(data_dir: str) -> list[Any]:
    """Four that differ in every kind of number but a dropout rate, one of them without a head."""
    common: dict[str, Any] = {"data__label_noise": 0.2, "optimizer__weight_decay": 1e-3}
    common |= {"optimizer__heads_learning_rate_factor": 2.0, "weighting": {"name": "linear_decay", "floor": 0.1}}
    other: dict[str, Any] = {"data__label_noise": 0.4, "optimizer__weight_decay": 1e-2}
    other |= {"optimizer__heads_learning_rate_factor": 0.5, "weighting": {"name": "linear_decay", "floor": 0.4}}
    other |= {"optimizer__schedule__floor": 0.02}
    return [
        config(data_dir, **common),
        config(data_dir, **common, seed=1, heads__aux1__weight=0.0),
        config(data_dir, **common, seed=2, heads__aux1__at="layer_2", optimizer__learning_rate=0.05),
        config(data_dir, **other, optimizer__momentum=0.5),
    ]


@pytest.fixture(scope="module")
def alone(data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> list[auxjax.Result]:
    folder = tmp_path_factory.mktemp("alone")
    return [auxjax.train(c, folder / str(i), progress=False) for i, c in enumerate(members(data_dir))]


@pytest.fixture(scope="module")
def together(data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("together")
    folders = [folder / str(i) for i in range(4)]
    with counted() as counter:
        outcomes = train_members(members(data_dir), folders, execution="scanned", progress=False)
    assert [outcome.status for outcome in outcomes] == ["done"] * 4
    assert counter["_stretch"] == 1, counter
    return folders


def parameters(folder: Path) -> dict[str, np.ndarray]:
    _, _, variables = auxjax.load_attached(folder)
    model = {collection: halves["model"] for collection, halves in variables.items()}
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(model)}


def same_bits(folders: list[Path], whole: list[Path]) -> None:
    """Parameters and records of each folder are those of its counterpart."""
    for found, expected in zip(folders, whole, strict=True):
        jax.tree.map(np.testing.assert_array_equal, parameters(found), parameters(expected))
        assert timeless(metrics.read(found / "metrics.jsonl")) == timeless(metrics.read(expected / "metrics.jsonl"))


def kill(
    monkeypatch: pytest.MonkeyPatch, data_dir: str, folders: list[Path], execution: str, at: str, step: int
) -> None:
    """Trains the members until the second one's method `at` is called at `step` or later."""
    done = getattr(Member, at)

    def stop(self: Member, *args: Any) -> None:
        if self.folder == folders[1] and self.step >= step:
            raise KeyboardInterrupt
        done(self, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Member, at, stop)
        train_members(members(data_dir), folders, execution=execution, progress=False)


def close(a: list[dict[str, Any]], b: list[dict[str, Any]], tolerance: float) -> None:
    for x, y in zip(timeless(a), timeless(b), strict=True):
        assert list(x) == list(y) and x.pop("split") == y.pop("split")
        assert x == pytest.approx(y, rel=tolerance, abs=tolerance)


def test_the_four_share_a_program(data_dir: str) -> None:
    assert [group.members for group in plan(members(data_dir))] == [(0, 1, 2, 3)]


@pytest.mark.parametrize("index", range(4))
def test_a_member_is_the_run_that_it_would_be_alone(
    index: int, alone: list[auxjax.Result], together: list[Path]
) -> None:
    folder, result = together[index], alone[index]
    assert result.workdir is not None
    expected, found = parameters(result.workdir), parameters(folder)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    close(metrics.read(folder / "metrics.jsonl"), result.history, 1e-5)
    for name in ("config.json", "dataset.json", "overrides.json"):
        assert (folder / name).read_text() == (result.workdir / name).read_text()
    assert json.loads((folder / "DONE").read_text()) == pytest.approx(
        json.loads((result.workdir / "DONE").read_text()), rel=1e-5
    )
    assert auxjax.evaluate(folder)["loss/main"] == pytest.approx(result.evaluation["loss/main"], rel=1e-5)


@pytest.mark.multidevice
@pytest.mark.parametrize(
    ("execution", "indices"),
    # Ten on eight devices are two on each: five blocks, no two of the same members, and three blocks of copies.
    [("vmapped", (0, 1, 2, 3)), ("devices", (0, 1, 2, 3, 1, 2, 3, 0, 2, 0))],
)
def test_each_way_gives_the_same_members(
    execution: str, indices: tuple[int, ...], data_dir: str, together: list[Path]
) -> None:
    some = members(data_dir)
    outcomes = train_members([some[i] for i in indices], execution=execution, progress=False)
    for outcome, i in zip(outcomes, indices, strict=True):
        assert outcome.status == "done"
        close(outcome.history, metrics.read(together[i] / "metrics.jsonl"), 1e-4)


def test_what_is_done_is_not_done_again(data_dir: str, together: list[Path]) -> None:
    with counted() as counter:
        outcomes = train_members(members(data_dir), together, progress=False)
    assert [outcome.status for outcome in outcomes] == ["done"] * 4 and not counter["_stretch"]
    assert outcomes[0].history == metrics.read(together[0] / "metrics.jsonl")


@pytest.mark.parametrize("last", [pytest.param(2, marks=pytest.mark.slow_study), 4])
def test_an_interrupted_population_ends_with_the_same_bits(
    last: int, data_dir: str, together: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the second member, before and after its checkpoint of step 4."""
    folders = [tmp_path / str(i) for i in range(4)]
    kill(monkeypatch, data_dir, folders, "scanned", "trained", last)
    assert (folders[0] / "DONE").exists() and not (folders[1] / "DONE").exists()
    assert not (folders[2] / "config.json").exists()
    first_steps = ablation_runs.first_steps(monkeypatch)
    train_members(members(data_dir), folders, execution="scanned", progress=False)
    assert first_steps == {"1": 4 if last == 4 else 0, "2": 0, "3": 0}
    same_bits(folders, together)


def test_members_in_threads_are_the_scanned_ones_bit_for_bit_also_when_interrupted(
    data_dir: str, together: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three at a time; killed when the second has the first of them one stretch ahead of it."""
    monkeypatch.setattr(machine, "processors", lambda: 3)
    folders = [tmp_path / str(i) for i in range(4)]
    kill(monkeypatch, data_dir, folders, "threads", "save", 0)
    first_steps = ablation_runs.first_steps(monkeypatch)
    with counted() as counter:
        train_members(members(data_dir), folders, progress=False)
    assert counter["_stretch"] == 1, counter
    assert len(set(first_steps.values())) == 2, first_steps
    same_bits(folders, together)


@pytest.mark.parametrize(
    "what", ["DONE", *(pytest.param(w, marks=pytest.mark.slow_study) for w in ("_open", "evaluated", "save"))]
)
def test_what_goes_wrong_with_one_folder_stops_no_other_member(
    what: str, data_dir: str, together: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "processors", lambda: 4)
    folders = [tmp_path / str(i) for i in range(4)]
    place, name = (run, "write_json") if what == "DONE" else (Member, what)
    done = getattr(place, name)

    def fail(of: Any, *args: Any) -> Any:
        if of in (folders[1] / "DONE", folders[1] / "FAILED") or getattr(of, "folder", None) == folders[1]:
            raise OSError(28, "No space left on device")
        return done(of, *args)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, fail)
        outcomes = train_members(members(data_dir), folders, execution="threads", progress=False)
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "done", "done"]
    assert "No space left on device" in str(outcomes[1].error)
    assert (folders[1] / "FAILED").exists() == (what != "DONE"), "nothing can be written there"
    assert [outcome.status for outcome in train_members(members(data_dir), folders, progress=False)] == ["done"] * 4
    assert not (folders[1] / "FAILED").exists()
    same_bits(folders, together)


@pytest.mark.parametrize("ends", ["a program that fails", "SIGTERM"])
def test_what_became_of_a_member_before_stays(
    ends: str, data_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first diverges and the second cannot be evaluated, before all end at the next stop."""
    monkeypatch.setattr(machine, "processors", lambda: 3)
    made = [config(data_dir, optimizer__learning_rate=rate) for rate in (1e30, 0.1, 0.2)]
    folders, inputs, evaluated = [tmp_path / str(i) for i in range(3)], training.evaluation_inputs, Member.evaluated
    stops: list[int] = []

    def few_inputs(*args: Any) -> Any:
        stops.append(len(stops))
        if ends != "SIGTERM" and len(stops) == 2:
            raise MemoryError("16 GB")
        return inputs(*args)

    def full(self: Member, *args: Any) -> None:
        if self.folder == folders[1]:
            raise OSError(28, "No space left on device")
        evaluated(self, *args)

    monkeypatch.setattr(training, "evaluation_inputs", few_inputs)
    monkeypatch.setattr(Member, "evaluated", full)
    if ends == "SIGTERM":
        monkeypatch.setattr(preemption, "watched", lambda: contextlib.nullcontext(lambda step: step >= 4))
        with pytest.raises(preemption.Preempted):
            train_members(made, folders, execution="threads", progress=False)
        told = json.loads((folders[1] / "FAILED").read_text())
        assert told["status"] == "failed" and "No space left" in told["error"]
        assert not (folders[2] / "FAILED").exists() and "1 failed: [Errno 28] No space left" in caplog.text
        return
    outcomes = train_members(made, folders, execution="threads", progress=False)
    assert [outcome.status for outcome in outcomes] == ["diverged", "failed", "failed"]
    assert "No space left" in str(outcomes[1].error) and outcomes[2].error == "MemoryError: 16 GB"


@pytest.mark.parametrize("execution", ["scanned", pytest.param("vmapped", marks=pytest.mark.slow_study)])
def test_a_member_that_diverges_is_marked_and_the_others_go_on(execution: str, data_dir: str, tmp_path: Path) -> None:
    rates = (0.1, 1e30, 0.2)
    configs = [config(data_dir, optimizer__learning_rate=rate) for rate in rates]
    folders = [tmp_path / str(i) for i in range(3)]
    outcomes = train_members(configs, folders, execution=execution, progress=False)
    assert [outcome.status for outcome in outcomes] == ["done", "diverged", "done"]
    told = json.loads((folders[1] / "FAILED").read_text())
    assert told["status"] == "diverged" and told["step"] == outcomes[1].history[-1]["step"] + 1
    assert outcomes[1].error is not None and "learning_rate" in outcomes[1].error
    assert all(np.isfinite(list(timeless([r])[0].values())[2]) for r in outcomes[1].history)
    (lone,) = train_members([configs[2]], execution="scanned", progress=False)
    close(outcomes[2].history, lone.history, 1e-4)
    again = train_members(configs, folders, execution=execution, progress=False)
    assert [o.status for o in again] == ["done", "diverged", "done"] and again[1].error == outcomes[1].error


def test_a_part_of_a_population_is_trained_as_in_the_whole(data_dir: str, together: list[Path]) -> None:
    (outcome,) = train_members(members(data_dir), only=[2], execution="scanned", progress=False)
    assert timeless(outcome.history) == timeless(metrics.read(together[2] / "metrics.jsonl"))


def test_sets_read_from_disk_train_one_by_one(data_dir: str, tmp_path: Path) -> None:
    made = [config(data_dir, data__cache="host", seed=seed) for seed in (0, 1)]
    outcomes = train_members(made, [tmp_path / "0", tmp_path / "1"], progress=False)
    assert [outcome.status for outcome in outcomes] == ["done", "done"]
    assert outcomes[0].evaluation == auxjax.train(made[0], progress=False).evaluation


def test_mistakes_are_one_line(data_dir: str, tmp_path: Path) -> None:
    with pytest.raises(AuxjaxError, match="unknown execution 'vmaped'; did you mean 'vmapped'"):
        train_members([config(data_dir)], execution="vmaped")
    auxjax.train(config(data_dir), tmp_path, progress=False)
    with pytest.raises(AuxjaxError, match="seed: 0 -> 1"):
        train_members([config(data_dir, seed=1)], [tmp_path], progress=False)
