"""ablate(): a folder of runs that a rerun completes, that no failing arm stops and no kill damages."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

import auxjax
from auxjax import ablate, ablation_file, arms, data, report, run, sweep, workers
from auxjax import config as configs
from auxjax.errors import AuxjaxError
from auxjax.report.write import Written
from tests import ablation_runs
from tests.compilations import counted


def trained(data_dir: str, workdir: Path, grid: str = ablation_runs.GRID, **options: Any) -> ablate.Ablation:
    made = ablation_runs.config(data_dir, **options.pop("changes", {}))
    options = {"seeds": ablation_runs.SEEDS, "progress": False, **options}
    return ablate.ablate(made, sweep.combinations(made, axes=[grid]), workdir, **options)


@pytest.fixture(scope="module", autouse=True)
def reported() -> Iterator[list[Path]]:
    """Folders that were reported on (the report has tests of its own, and takes seconds); one device compiles less."""
    folders: list[Path] = []

    def write(paths: list[Path], out: Path) -> Written:
        folders.extend(paths)
        return Written(out / "report.html", "a table")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", write)
        patch.setattr(jax, "local_device_count", lambda: 1)
        yield folders


@pytest.fixture(scope="module")
def finished(data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> ablate.Ablation:
    return trained(data_dir, tmp_path_factory.mktemp("ablation"), command="python experiments/ablate.py --seeds=2")


@pytest.fixture
def copied(finished: ablate.Ablation, tmp_path: Path) -> Path:
    """A copy of the finished ablation to do harm to."""
    return shutil.copytree(finished.folder, tmp_path / "copy")


def test_the_folder_has_a_run_for_each_arm_and_seed(finished: ablate.Ablation) -> None:
    assert finished.exit_code == 0
    described = ablation_file.read(finished.folder)
    assert described["axes"] == {"heads.aux1.weight": [0.0, 0.3]}
    assert described["baseline"] == {"heads.aux1.weight": 0.0}
    assert described["metric"] == "accuracy/main"
    assert described["command"] == "python experiments/ablate.py --seeds=2"
    assert [(arm["name"], arm["overrides"]) for arm in described["arms"]] == [
        (f"heads.aux1.weight={w}", {"heads.aux1.weight": float(w)}) for w in ("0", "0.3")
    ]
    names = [name for arm in described["arms"] for name in arm["runs"]]
    assert names == list(finished.outcomes)
    assert sorted(path.name for path in (finished.folder / "runs").iterdir()) == sorted(names)
    assert all((finished.folder / "runs" / name / "DONE").exists() for name in names)


def test_a_run_of_an_ablation_is_the_run_that_train_makes(
    data_dir: str, finished: ablate.Ablation, tmp_path: Path
) -> None:
    made = ablation_runs.config(data_dir, seed=1)
    result = auxjax.train(made, tmp_path, progress=False)
    assert finished.outcomes[list(finished.outcomes)[3]].evaluation == pytest.approx(result.evaluation, abs=1e-6)
    # And `train` too writes what a kill kept from being written.
    no_test_record(tmp_path)
    assert auxjax.train(made, tmp_path, progress=False).history[-1]["split"] == "test"


def test_what_is_done_is_not_trained_again_and_new_arms_join(data_dir: str, copied: Path) -> None:
    before = ablation_runs.left(copied)
    with counted() as lowered:
        again = trained(data_dir, copied)
    assert lowered["training"] == 0
    assert again.exit_code == 0
    grown = trained(data_dir, copied, "heads.aux1.weight=0.3,0.5", seeds=[1, 2])
    assert grown.exit_code == 0
    described = {arm["name"]: arm["runs"] for arm in ablation_file.read(copied)["arms"]}
    assert {name: len(runs) for name, runs in described.items()} == {
        "heads.aux1.weight=0": 2, "heads.aux1.weight=0.3": 3, "heads.aux1.weight=0.5": 2,
    }  # fmt: skip
    after = ablation_runs.left(copied)
    assert {name: after[name] for name in before} == before
    assert len(after) == 7


def test_a_folder_of_another_config_is_refused_in_one_line(data_dir: str, copied: Path) -> None:
    with pytest.raises(AuxjaxError, match=r"ablation of another config: train.total_steps: 4 -> 6") as error:
        trained(data_dir, copied, changes={"train.total_steps": 6})
    assert "\n" not in str(error.value)
    folder = next((copied / "runs").iterdir())
    changed = json.loads((folder / "config.json").read_text())
    changed["model"]["width"] = 32
    (folder / "config.json").write_text(json.dumps(changed))
    with pytest.raises(AuxjaxError, match=r"is of another config: model.width: 32 -> 16; move it away"):
        trained(data_dir, copied)


def test_a_damaged_description_says_what_to_do_and_no_run_is_lost(data_dir: str, copied: Path) -> None:
    described = ablation_file.read(copied)
    (copied / "ablation.json").write_text('{"arms": [')
    with pytest.raises(AuxjaxError, match="is no JSON: delete it"):
        trained(data_dir, copied)
    (copied / "ablation.json").unlink()
    assert trained(data_dir, copied, collect=True, command=described["command"]).exit_code == 0
    assert ablation_file.read(copied) == described | {"name": copied.name}


def test_a_run_that_diverges_stops_no_other_and_is_named(data_dir: str, tmp_path: Path) -> None:
    done = trained(data_dir, tmp_path, "optimizer.learning_rate=1e38,0.1", seeds=[0])
    bad, good = done.outcomes.values()
    assert (bad.status, good.status) == ("diverged", "done")
    assert done.exit_code == 1
    (line,) = done.failures
    assert line.startswith("optimizer.learning_rate=1e+38,seed=0-")
    assert "step" in line
    assert bad.folder is not None
    assert "error" in json.loads((bad.folder / "FAILED").read_text())


def test_one_group_is_trained_alone_and_collected_afterwards(
    data_dir: str, tmp_path: Path, reported: list[Path]
) -> None:
    grid = "train.eval_steps=1,2"
    with pytest.raises(AuxjaxError, match="--only=3: there are groups 1 to 2"):
        trained(data_dir, tmp_path, grid, seeds=[0], only=3)
    first = trained(data_dir, tmp_path, grid, seeds=[0], only=1)
    assert [name.split(",")[0] for name in first.outcomes] == ["train.eval_steps=1"]
    assert first.report is None
    assert tmp_path not in reported
    partly = trained(data_dir, tmp_path, grid, seeds=[0], collect=True)
    assert partly.report == tmp_path / "report" / "report.html"
    assert tmp_path in reported
    assert partly.exit_code == 1
    assert "not finished" in partly.failures[0]
    trained(data_dir, tmp_path, grid, seeds=[0], only=2)
    assert trained(data_dir, tmp_path, grid, seeds=[0], collect=True).exit_code == 0


def test_there_is_a_command_for_each_group(data_dir: str) -> None:
    made = ablation_runs.config(data_dir)
    grid = sweep.combinations(made, axes=["model.width=8,16"])
    lines = ablate.commands(made, grid, [0, 1], ["python", "x y.py", "--seeds=2"])
    assert lines == ["python 'x y.py' --seeds=2 --only=1", "python 'x y.py' --seeds=2 --only=2"]


def half_a_record(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "split": "tr')


def no_test_record(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert '"test"' in lines[-1]
    (run / "metrics.jsonl").write_text("".join(lines[:-1]))


def a_checkpoint_begun(run: Path) -> None:
    """The newest one as Orbax has it before the name is final."""
    (newest,) = (path for path in (run / "checkpoints").iterdir() if path.name == "4")
    newest.rename(newest.with_name("4.orbax-checkpoint-tmp"))


def a_checkpoint_half_deleted(run: Path) -> None:
    older = shutil.copytree(run / "checkpoints" / "4", run / "checkpoints" / "1")
    shutil.rmtree(older / "state")
    shutil.rmtree(older / "metrics", ignore_errors=True)


def files_begun(run: Path) -> None:
    """What `os.replace` would have put in place."""
    for name in ("config.json", "DONE", "metrics.jsonl", "dataset.json"):
        (run / f".{name}.123").write_text('{"')
    (run / "dataset.json").unlink()
    (run / "versions.json").unlink()


def nothing_written(run: Path) -> None:
    shutil.rmtree(run)
    run.mkdir()


HARMS = (half_a_record, no_test_record, a_checkpoint_begun, a_checkpoint_half_deleted, files_begun, nothing_written)


def test_runs_cut_off_while_they_wrote_end_with_the_same_numbers(
    data_dir: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no more is trained again than was lost: of one run its last two steps, of another all."""
    before = ablation_runs.left(copied)
    names, first_steps = list(before), ablation_runs.first_steps(monkeypatch)
    for harms, again in ((HARMS[:4], {names[2]: 2}), (HARMS[4:], {names[1]: 0})):
        for name, harm in zip(before, harms, strict=False):
            (copied / "runs" / name / "DONE").unlink()
            harm(copied / "runs" / name)
        assert trained(data_dir, copied).exit_code == 0
        assert ablation_runs.left(copied) == before
        assert first_steps == again
        first_steps.clear()


def test_the_base_config_of_an_ablation_leaves_out_what_changes_no_result(data_dir: str) -> None:
    made = ablation_runs.config(data_dir, **{"writers.tensorboard": True, "seed": 4})
    assert ablation_file.base_of(made) == ablation_file.base_of(ablation_runs.config("elsewhere"))
    assert arms.group_id(arms.apply(made, {})) == arms.group_id(arms.apply(ablation_runs.config(data_dir), {}))
    other = ablation_runs.config(data_dir, **{"data.batch_size": 16})
    assert configs.difference(ablation_file.base_of(made), ablation_file.base_of(other))


def test_on_a_pipe_a_plain_line_tells_now_and_then_how_far_it_is(
    data_dir: str, copied: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ablate, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(ablate, "_PLAIN_LINE_SECONDS", 0.0)
    runs = sorted((copied / "runs").iterdir())
    (runs[1] / "DONE").unlink()
    members = [ablate.Member(run.name.partition(",")[0], ablation_runs.config(data_dir), run) for run in runs]
    with caplog.at_level("INFO", logger="auxjax"), ablate._bar(members):
        time.sleep(0.2)
    assert "3 of 4 runs finished; now heads.aux1.weight=0" in caplog.messages


def test_what_breaks_a_whole_group_is_told_of_each_of_its_runs(
    data_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise MemoryError("16 GB")

    with monkeypatch.context() as patch:
        patch.setattr(workers, "train_members", broken)
        done = trained(data_dir, tmp_path, seeds=[0])
    assert [(o.status, o.error) for o in done.outcomes.values()] == [("failed", "MemoryError: 16 GB")] * 2
    assert done.exit_code == 1
    # What failed is tried again, and then no longer counts as failed.
    again = trained(data_dir, tmp_path, seeds=[0])
    assert again.exit_code == 0
    assert not list(tmp_path.glob("runs/*/FAILED"))


def test_a_kill_while_the_config_is_written_leaves_the_one_before(
    data_dir: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    folder = next((copied / "runs").iterdir())
    before = (folder / "config.json").read_text()
    made = run.read_config(folder)
    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run.describe(folder, made, data.load(made.data))
    assert (folder / "config.json").read_text() == before
    monkeypatch.undo()
    (folder / "config.json").unlink()
    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run.describe(folder, made, data.load(made.data))
    assert not (folder / "config.json").exists()
