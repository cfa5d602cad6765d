"""Groups of an ablation's runs: the execution that they get, their locks, and what they ask of a cluster."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest

from auxjax import ablate, workers
from auxjax import config as configs
from auxjax.errors import AuxjaxError
from auxjax.population import Outcome
from tests import ablation_runs


def test_the_execution_that_is_given_is_the_one_of_every_group(
    data_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []

    def told(_: Any, folders: list[Path], *, execution: str, **__: Any) -> list[Outcome]:
        given.append(execution)
        return [Outcome(folder, "done", None, {}, []) for folder in folders]

    monkeypatch.setattr(workers, "train_members", told)
    made = ablation_runs.config(data_dir)
    ablate.ablate(made, workdir=tmp_path / "a", only=1, execution="vmapped", progress=False)
    ablate.ablate(made, workdir=tmp_path / "a", only=1, progress=False)
    # What a task of Ray does, which crosses to another process as text.
    workers._task([(configs.to_json(made), str(tmp_path / "run"))], "devices")
    assert given == ["vmapped", "auto", "devices"]


def test_an_execution_of_no_such_name_is_one_line_before_anything_starts(data_dir: str, tmp_path: Path) -> None:
    valid = "unknown execution 'vmaped'; did you mean 'vmapped'? valid: auto, devices, scanned, threads, vmapped"
    with pytest.raises(AuxjaxError, match=re.escape(valid) + "$"):
        ablate.ablate(ablation_runs.config(data_dir), workdir=tmp_path / "ablation", execution="vmaped")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_one_process_alone_and_free_when_that_ends(tmp_path: Path) -> None:
    """The lock is the kernel's, of an open file: two openings of one process are as good as two processes."""
    order: list[str] = []

    def second() -> None:
        with workers.locked(tmp_path / "run"):
            order.append("second")

    with workers.locked(tmp_path / "run"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(timeout=0.2)
        order.append("first")
    thread.join(timeout=5)
    assert order == ["first", "second"]


@pytest.mark.parametrize(("given", "resources"), [([], {}), (["TPU=4", "a=0.5"], {"TPU": 4.0, "a": 0.5})])
def test_resources_on_ray_are_names_and_amounts(given: list[str], resources: dict[str, float]) -> None:
    assert workers.parse_resources(given) == resources
    with pytest.raises(AuxjaxError, match="--resources=TPU: write name=amount"):
        workers.parse_resources(["TPU"])


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="counts the memory maps of Linux")
@pytest.mark.slow_study
def test_a_group_leaves_none_of_its_programs_behind(data_dir: str, tmp_path: Path) -> None:
    maps = []
    for depth in (2, 3, 4):
        made = ablation_runs.config(data_dir, **{"model.depth": depth})
        (trained,) = workers.train_group([(made, tmp_path / str(depth))], "scanned")
        assert trained.status == "done"
        maps.append(len(Path("/proc/self/maps").read_text().splitlines()))
    assert maps[2] < maps[0] + 100
