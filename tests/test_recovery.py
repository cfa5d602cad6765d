"""Training goes on from the newest whole checkpoint and ends with the same bits; readers take no damaged one."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore

import auxjax
from auxjax import checkpoint, described, diagnose, manifest, recovery
from auxjax.errors import AuxjaxError
from auxjax.record import Recorder
from tests.digits_runs import config
from tests.equal import equal

ROOT = Path(__file__).parent.parent


CHANGES = {"train.checkpoint_steps": 2, "train.keep_best": 0}


@pytest.fixture(scope="module")
def finished(data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> auxjax.Result:
    return auxjax.train(config(data_dir, **CHANGES), tmp_path_factory.mktemp("finished"), progress=False)


@pytest.fixture
def copy(finished: auxjax.Result, tmp_path: Path) -> Path:
    """The folder of a finished run, with the steps 4 and 6."""
    assert finished.workdir is not None
    return Path(shutil.copytree(finished.workdir, tmp_path / "run"))


def data_file(step: Path) -> Path:
    """The file with most of a state's arrays."""
    return max((step / "state").rglob("d/*"), key=lambda path: path.stat().st_size)


def flip(step: Path) -> str:
    path = data_file(step)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    return "is not what was written"


def truncate(step: Path) -> str:
    os.truncate(data_file(step), 7)
    return "has 7 bytes, not"


def remove(step: Path) -> str:
    data_file(step).unlink()
    return "is missing"


def empty(step: Path) -> str:
    shutil.rmtree(step)
    step.mkdir()
    return "it has no manifest"


def garble(step: Path) -> str:
    (step / "metrics" / "metrics").write_text("{")
    return "metrics/metrics has 1 bytes"


@pytest.mark.parametrize("damage", [flip, truncate, remove, empty, garble])
def test_a_damaged_checkpoint_is_set_aside_and_the_run_ends_with_the_same_bits(
    damage: Any, copy: Path, finished: auxjax.Result, caplog: pytest.LogCaptureFixture
) -> None:
    reason = damage(copy / "checkpoints" / "6")
    with caplog.at_level(logging.INFO, "auxjax"):
        again = auxjax.train(finished.config, copy, progress=False)
    assert f"checkpoint 6 is damaged ({reason}" in caplog.text or reason in caplog.text
    assert f"moved to {copy / 'damaged' / '6-1'}" in caplog.text and "resuming at step 4 of 6" in caplog.text
    equal(again.state, finished.state)
    assert again.evaluation == finished.evaluation
    assert [(r["step"], r["split"]) for r in again.history] == [(r["step"], r["split"]) for r in finished.history]
    assert (copy / "damaged" / "6-1").is_dir()
    assert all(manifest.verify(copy / "checkpoints" / str(step)) is None for step in (4, 6))


def test_with_none_left_training_starts_anew_and_says_so(
    copy: Path, finished: auxjax.Result, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (4, 6):
        flip(copy / "checkpoints" / str(step))
    again = auxjax.train(finished.config, copy, progress=False)
    assert "no whole checkpoint is left" in caplog.text and "training starts anew" in caplog.text
    equal(again.state, finished.state)
    assert sorted(path.name for path in (copy / "damaged").iterdir()) == ["4-1", "6-1"]


def test_what_an_interruption_left_goes_and_a_commit_that_was_not_sealed_stays(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = copy / "checkpoints"
    shutil.copytree(checkpoints / "4", checkpoints / f"8{recovery.UNFINISHED}")
    shutil.copytree(checkpoints / "4" / "state", checkpoints / recovery.DELETED / "2" / "state")
    (checkpoints / ".6.manifest.json.77").write_text("{")
    manifest.write(checkpoints / "6", 6, sealed=False)
    (checkpoints / "6" / "_CHECKPOINT_METADATA").write_text("half")
    assert recovery.recover(copy) == [4, 6]
    assert sorted(path.name for path in checkpoints.iterdir()) == ["4", "6"]
    assert manifest.is_sealed(checkpoints / "6") and caplog.text == ""
    with checkpoint.open_manager(copy) as manager:
        assert sorted(manager.all_steps()) == [4, 6]


def test_what_is_no_step_is_set_aside_and_nothing_is_overwritten(copy: Path) -> None:
    (copy / "checkpoints" / "8").symlink_to(copy / "checkpoints" / "6")
    (copy / "checkpoints" / "007").mkdir()
    (copy / "checkpoints" / "9").write_text("no directory")
    (copy / "damaged" / "9-1").mkdir(parents=True)
    assert recovery.recover(copy) == [4, 6]
    assert sorted(path.name for path in (copy / "damaged").iterdir()) == ["007-1", "8-1", "9-1", "9-2"]


def test_readers_take_the_newest_whole_one_and_change_nothing(
    copy: Path, finished: auxjax.Result, caplog: pytest.LogCaptureFixture
) -> None:
    flip(copy / "checkpoints" / "6")
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    earlier = auxjax.load(copy, 4)[2]
    equal(auxjax.load(copy)[2], earlier)
    assert "checkpoint of step 6" in caplog.text and "is not what was written): passed over" in caplog.text
    equal(auxjax.load(copy, "best")[2], earlier)
    assert int(diagnose.load_state(copy)[0].step) == 4
    auxjax.load_attached(copy)
    with pytest.raises(AuxjaxError, match=r"step 6 .* is damaged \(state/.* is not what was written\)") as error:
        auxjax.load(copy, 6)
    assert "\n" not in str(error.value)
    empty(copy / "checkpoints" / "4")
    for read in (auxjax.load, auxjax.load_attached, auxjax.evaluate, diagnose.load_state):
        with pytest.raises(AuxjaxError, match=r"no whole checkpoint in .*step 6: .*; step 4: it has no manifest"):
            read(copy)
    assert {path for path in before if not path.is_relative_to(copy / "checkpoints" / "4")} == {
        path for path in copy.rglob("*") if path != copy / "checkpoints" / "4" and before[path]
    }


def test_the_best_is_the_best_of_those_that_are_whole(copy: Path) -> None:
    scores = {
        step: json.loads((copy / "checkpoints" / str(step) / "metrics" / "metrics").read_text()) for step in (4, 6)
    }
    best = max(scores, key=lambda step: (scores[step]["score"], step))
    assert recovery.find_whole(copy, "best") == best
    flip(copy / "checkpoints" / str(best))
    assert recovery.find_whole(copy, "best") == 10 - best


def test_each_save_leaves_a_sealed_manifest_and_no_deleted_step(finished: auxjax.Result) -> None:
    assert finished.workdir is not None
    checkpoints = finished.workdir / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["4", "6"]
    assert all(manifest.is_sealed(checkpoints / step) for step in ("4", "6"))


def test_a_hundredfold_array_is_refused_before_it_is_read(copy: Path) -> None:
    """The folder is whole, its manifest too: somebody made the checkpoint of a network that is not the config's."""
    other = json.loads((copy / "config.json").read_text())
    other["model"]["width"] = 2**19
    (copy / "config.json").write_text(json.dumps(other))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (auxjax.load, auxjax.load_attached):
        with pytest.raises(AuxjaxError, match=r"has a checkpoint of another model: .* expected") as error:
            read(copy)
        assert "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB; the parameters take 1 TB


@pytest.mark.parametrize("what", ["metrics", "checkpoint", "gone", "DONE"])
def test_a_disk_that_fails_ends_the_run_in_one_line_and_the_last_checkpoint_is_whole(
    what: str, data_dir: str, finished: auxjax.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, record = tmp_path / "run", Recorder.step

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    def step(self: Recorder, number: int, values: Any) -> None:
        if number == 4:
            for manager in managers:
                manager.wait_until_finished()
            if what == "metrics":
                monkeypatch.setattr("auxjax.metrics.JsonLines.write_scalars", fail)
            elif what == "checkpoint":
                monkeypatch.setattr("auxjax.manifest.write", fail)
            elif what == "gone":
                folder.rename(tmp_path / "away")
        record(self, number, values)

    managers: list[Any] = []
    opened = checkpoint.open_manager

    def open_manager(*args: Any) -> Any:
        managers.append(opened(*args))
        return managers[-1]

    monkeypatch.setattr(checkpoint, "open_manager", open_manager)
    monkeypatch.setattr(Recorder, "step", step)
    if what == "DONE":
        monkeypatch.setattr("auxjax.run.mark_done", fail)
    left = r"no checkpoint is there yet|is gone" if what == "gone" else f"step {6 if what == 'DONE' else 2} is whole"
    with pytest.raises(AuxjaxError, match=left) as error:
        auxjax.train(finished.config, folder, progress=False)
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    if what == "gone":
        shutil.rmtree(folder, ignore_errors=True)
        (tmp_path / "away").rename(folder)
    equal(auxjax.train(finished.config, folder, progress=False).state, finished.state)


FULL = """
import resource, sys
from auxjax import cli, config as configs
from auxjax.record import Recorder
import auxjax
record = Recorder.step
def step(self, number, values):
    if number == 4:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
    record(self, number, values)
Recorder.step = step
made = configs.from_json(open(sys.argv[1]).read())
folder, sys.argv[1:] = sys.argv[2], []
cli.run(lambda: auxjax.train(made, folder, progress=False) and None)
"""


@pytest.mark.slow
def test_a_full_disk_is_one_line_on_standard_error_and_exit_code_2(finished: auxjax.Result, tmp_path: Path) -> None:
    assert finished.workdir is not None
    command = [sys.executable, "-c", FULL, str(finished.workdir / "config.json"), str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: a checkpoint could not be written") and done.stderr.count("\n") == 1
    assert "File too large" in done.stderr
    again = auxjax.train(finished.config, tmp_path / "run", progress=False)
    equal(again.state, finished.state)


def test_random_bytes_for_the_position_are_no_position(copy: Path, finished: auxjax.Result) -> None:
    """A position that the pipeline cannot take, in a checkpoint whose manifest holds."""
    path = copy / "checkpoints" / "6" / "position" / "metadata"
    path.write_text(json.dumps({"next": "soon"}))
    manifest.write(copy / "checkpoints" / "6", 6, sealed=True)
    with pytest.raises(AuxjaxError, match=r"checkpoint .* cannot be read \(ValueError: invalid") as error:
        auxjax.train(finished.config, copy, progress=False)
    assert "\n" not in str(error.value)
    assert np.isfinite(finished.evaluation["loss/main"])


def crc32c(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return (crc ^ 0xFFFFFFFF).to_bytes(4, "little")


def test_a_checkpoint_whose_index_points_out_of_its_directory_is_refused(copy: Path) -> None:
    """All sums hold, TensorStore's own too, and the file that the index names is there, but outside."""
    step = copy / "checkpoints" / "6"
    item = step / "inference"
    index = (item / "manifest.ocdbt").read_bytes()
    inside = next((item / "d").iterdir())
    inner, outer = b"d/" + inside.name.encode(), b"../../../" + inside.name[:25].encode()
    assert inner in index and len(inner) == len(outer) and index[-4:] == crc32c(index[:-4])
    inside.rename(copy / inside.name[:25])
    changed = index[:-4].replace(inner, outer)
    (item / "manifest.ocdbt").write_bytes(changed + crc32c(changed))
    manifest.write(step, 6, sealed=True)
    with pytest.raises(AuxjaxError, match="cannot be read") as error:
        auxjax.load(copy)
    assert "\n" not in str(error.value)


def test_an_array_in_chunks_larger_than_itself_is_refused_unread(copy: Path) -> None:
    step = copy / "checkpoints" / "6"
    base = {"driver": "file", "path": f"{step / 'inference'}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    key = next(key for key in store.list().result() if key.endswith(b"kernel/.zarray"))
    array = json.loads(store.read(key).result().value)
    store.write(key, json.dumps(array | {"chunks": [2**40, 2**40]}).encode()).result()
    manifest.write(step, 6, sealed=True)
    with pytest.raises(AuxjaxError, match="is stored in chunks of"):
        auxjax.load(copy)


def test_a_network_without_end_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(described, "_MOST_CALLS", 20)
    changed = json.loads((copy / "config.json").read_text())
    changed["model"]["depth"] = 2**20
    (copy / "config.json").write_text(json.dumps(changed))
    with pytest.raises(AuxjaxError, match="has no end"):
        auxjax.load(copy)
    changed["model"]["depth"] = 2**40
    (copy / "config.json").write_text(json.dumps(changed))
    with pytest.raises(AuxjaxError, match="no network is that large"):
        auxjax.load(copy)
