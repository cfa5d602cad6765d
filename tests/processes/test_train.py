"""Several processes train as one does: same losses, same checkpoints, one for the other; what goes wrong is a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import auxjax
from auxjax import metrics
from tests.processes import program
from tests.processes.launching import Ended, outcome, train

# Every way to lay out the state, and every way to read the data.
WAYS: dict[str, dict[str, Any]] = {
    "jit": {"data.cache": "device"},
    "fsdp": {"data.cache": "host", "parallel.mode": "fsdp"},
}
ALL = {
    f"{mode}_{cache}": {"data.cache": cache, "parallel.mode": mode}
    for mode in ("jit", "fsdp")
    for cache in ("device", "host")
}


def runs(folder: Path, ways: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"workdir": str(folder / way), "changes": changes} for way, changes in ways.items()]


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for path in a.keys() - {"losses"}:
        np.testing.assert_allclose(a[path], b[path], rtol=1e-6, atol=1e-6, err_msg=path)
    count = min(len(a["losses"]), len(b["losses"]))
    assert count >= 2
    np.testing.assert_allclose(a["losses"][-count:], b["losses"][-count:], rtol=1e-6)


def interrupted(source: Path, target: Path) -> None:
    """Copies a run as it was after its second of four steps."""
    shutil.copytree(source, target)
    shutil.rmtree(target / "checkpoints" / "4")
    (target / "DONE").unlink()


def whole(folder: Path) -> None:
    """A finished run's metrics have every step once, and nothing is left that was half written."""
    steps = [record["step"] for record in metrics.read(folder / "metrics.jsonl") if record["split"] == "train"]
    assert steps == [1, 2, 3, 4]
    assert (folder / "DONE").exists()
    assert not list(folder.glob(".*")) + list((folder / "checkpoints").glob("*tmp*"))


def good(ended: list[Ended]) -> None:
    for one in ended:
        assert one.code == 0, one.text
        assert "Traceback" not in one.text, one.text


def wrong(folder: Path) -> list[dict[str, Any]]:
    """Runs of which every process has to say why it does not begin."""
    runs = [
        {"workdir": f"{folder}/a", "changes": {}, "other": {"seed": 1}},
        {"workdir": f"{folder}/bPROCESS", "changes": {}},
        {"workdir": f"{folder}/c", "changes": {"parallel.mode": "pmap"}},
        {"workdir": f"{folder}/d", "changes": {"parallel.num_devices": 1}},
        {"workdir": f"{folder}/e", "changes": {"data.batch_size": 31}},
    ]
    return [run | {"fails": True} for run in runs]


class One(NamedTuple):
    """What one process with eight devices leaves: the runs' folder, and of each its arrays."""

    folder: Path
    arrays: dict[str, dict[str, np.ndarray]]


def train_here(folder: Path, ways: dict[str, dict[str, Any]], data_dir: str) -> One:
    done = {
        way: auxjax.train(program.config(data_dir, changes), folder / way, progress=False)
        for way, changes in ways.items()
    }
    return One(folder, {way: program.arrays(result) for way, result in done.items()})


@pytest.fixture(scope="module")
def one(data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> One:
    return train_here(tmp_path_factory.mktemp("one"), WAYS, data_dir)


class Two(NamedTuple):
    """What two processes with two devices each leave: the folder of runs and results, and how each ended."""

    folder: Path
    ended: list[Ended]


@pytest.fixture(scope="module")
def two(one: One, data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Two:
    """Trains two ways, then finishes what one process began, then tries what cannot run."""
    folder = tmp_path_factory.mktemp("two")
    interrupted(one.folder / "fsdp", folder / "begun_by_one")
    begun = {"begun_by_one": WAYS["fsdp"]}
    ended = train(2, 2, [*runs(folder, WAYS | begun), *wrong(folder)], data_dir, folder)
    good(ended)
    return Two(folder, ended)


def test_two_processes_train_as_one(one: One, two: Two) -> None:
    for process in (0, 1):
        for number, way in enumerate(WAYS):
            same(outcome(two.folder, number, process), one.arrays[way])
    for way in WAYS:
        whole(two.folder / way)


def test_two_processes_finish_what_one_began(one: One, two: Two) -> None:
    same(outcome(two.folder, 2), one.arrays["fsdp"])
    whole(two.folder / "begun_by_one")


def test_one_process_finishes_what_two_began(one: One, two: Two, data_dir: str, tmp_path: Path) -> None:
    interrupted(two.folder / "fsdp", tmp_path / "fsdp")
    finished = train_here(tmp_path, {"fsdp": WAYS["fsdp"]}, data_dir)
    same(finished.arrays["fsdp"], one.arrays["fsdp"])
    whole(tmp_path / "fsdp")


def test_processes_agree_and_fail_together_and_touch_no_device(two: Two) -> None:
    for number, one in enumerate(two.ended):
        told = "ZeroDivisionError division by zero" if number else "AuxjaxError process 1 of 2: division by zero"
        assert f"process {number} agrees: {told}, devices touched: False" in one.text


def test_what_cannot_run_is_said_by_every_process(two: Two) -> None:
    for number, one in enumerate(two.ended):
        start = f"process {number} of 2: "
        lines = [line.removeprefix(start) for line in one.text.splitlines() if line.startswith(start)]
        assert "another config than process 0: seed: 0 -> 1" in lines[0]
        assert f"b{number} is not the same folder in process 0 and in 1" in lines[1]
        assert "pmap' is for one process" in lines[2]
        assert "num_devices=1, but 2 processes use all their 4 devices" in lines[3]
        assert "batch_size=31 is not divisible by 4 devices; the nearest that is: 32" in lines[4]
        assert len(lines) == 5


@pytest.mark.slow_study
@pytest.mark.parametrize(("count", "devices"), [(2, 2), (4, 1), (4, 2)])
def test_any_number_trains_as_one_and_finishes_what_another_began(
    count: int, devices: int, two: Two, data_dir: str, tmp_path: Path
) -> None:
    reference = train_here(tmp_path / "one", ALL, data_dir)
    interrupted(two.folder / "fsdp", tmp_path / "two_began")
    interrupted(reference.folder / "jit_device", tmp_path / "one_began")
    ways = ALL | {"two_began": ALL["fsdp_host"], "one_began": ALL["jit_device"]}
    good(train(count, devices, runs(tmp_path, ways), data_dir, tmp_path))
    for number, way in enumerate([*ALL, "fsdp_host", "jit_device"]):
        same(outcome(tmp_path, number, count - 1), reference.arrays[way])
    for way in ways:
        whole(tmp_path / way)
    for way in ALL:
        interrupted(tmp_path / way, tmp_path / "again" / way)
    again = train_here(tmp_path / "again", ALL, data_dir)
    for way in ALL:
        same(again.arrays[way], reference.arrays[way])


@pytest.mark.slow_study
def test_all_roll_back_alike_and_measure_diagnostics(data_dir: str, tmp_path: Path) -> None:
    diverging = {"optimizer.learning_rate": 1e38, "model.activation": "relu", "train.non_finite": "rollback"}
    measured = {"diagnostics.names": ("gradient_norm", "variance"), "diagnostics.every_steps": 2}
    rolled, diagnosed = runs(tmp_path, {"rolled": diverging, "diagnosed": measured})
    ended = train(2, 2, [rolled | {"fails": True}, diagnosed], data_dir, tmp_path)
    good(ended)
    for one in ended:
        assert "rolled back 5 times, each to half the learning rate" in one.text
    assert len(json.loads((tmp_path / "rolled" / "rollbacks.json").read_text())) == 5
    here = train_here(tmp_path / "here", {"diagnosed": measured}, data_dir)
    same(outcome(tmp_path, 1), here.arrays["diagnosed"])
    records = [metrics.read(place / "diagnosed" / "diagnostics.jsonl") for place in (tmp_path, here.folder)]
    for a, b in zip(*records, strict=True):
        assert a.keys() == b.keys()
        leaves = (jax.tree.leaves({key: record[key] for key in a if key != "seconds"}) for record in (a, b))
        numbers = [[x for x in values if not isinstance(x, str)] for values in leaves]
        assert len(numbers[0]) > 2
        np.testing.assert_allclose(np.array(numbers[0]), np.array(numbers[1]), rtol=1e-3, atol=1e-5)


DEATHS = [
    ((1, 3, "kill"), 0, 75, "error: process 1 of 2 is gone: start all again, they go on from the last checkpoint"),
    ((0, 3, "kill"), 1, None, "process 0 of 2 is gone|JAX distributed service detected fatal errors"),
    ((1, 3, "complain"), 0, 2, "error: process 1 of 2: record 7 is damaged"),
    ((0, 3, "mistake"), 1, 1, "error: process 0 of 2: RuntimeError: no such pixel"),
    ((1, 3, "stop"), 0, -6, "unhealthy|heartbeat"),
]


@pytest.mark.parametrize(
    ("die", "other", "code", "message"),
    [
        pytest.param(*death, id=f"{death[0][2]}{death[0][0]}", marks=[pytest.mark.slow_study] if number else [])
        for number, death in enumerate(DEATHS)
    ],
)
def test_a_process_that_dies_ends_the_other_which_says_why(
    die: tuple[int, int, str], other: int, code: int | None, message: str, data_dir: str, tmp_path: Path
) -> None:
    changes = WAYS["jit"] | {"train.total_steps": 100_000}
    ended = train(2, 1, runs(tmp_path, {"jit": changes}), data_dir, tmp_path, die)
    survivor, dead = ended[other], ended[1 - other]
    assert any(part in survivor.text for part in message.split("|")), survivor.text
    assert survivor.code == code if code else survivor.code != 0
    seconds = {"kill": 2, "complain": 8, "mistake": 8, "stop": 60}[die[2]]
    assert abs(survivor.seconds - dead.seconds) < seconds
    if die[2] in ("complain", "mistake"):
        assert dead.code == {"complain": 2, "mistake": 1}[die[2]]
        assert "Traceback" not in survivor.text
