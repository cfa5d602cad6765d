"""An ablation that is killed at random moments, or loses a machine, ends with the numbers of one left alone."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from auxjax import ablate, arms, population, sweep, workers
from tests import ablation_runs

ROOT = Path(__file__).parents[2]


def finish(data_dir: str, workdir: Path) -> float:
    """Runs the ablation to its end in a process of its own; returns the seconds that it took."""
    begun = time.perf_counter()
    process = ablation_runs.start(data_dir, workdir)
    process.join(timeout=300)
    assert process.exitcode == 0
    return time.perf_counter() - begun


def kill_once_saved(data_dir: str, workdir: Path) -> None:
    """Starts the ablation in a process of its own and kills it when it has a checkpoint."""
    process = ablation_runs.start(data_dir, workdir)
    while process.exitcode is None and not any(workdir.glob("runs/*/checkpoints/2")):
        time.sleep(0.002)
    process.kill()
    process.join()


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow_study)])
def test_an_ablation_killed_at_random_moments_ends_with_the_same_numbers(
    kills: int, data_dir: str, tmp_path: Path
) -> None:
    moments = random.Random(0)
    finish(data_dir, tmp_path / "alone")  # compiles what the others find compiled
    seconds = 1.5 if kills < 20 else finish(data_dir, tmp_path / "timed")
    expected, folders = ablation_runs.left(tmp_path / "alone"), [tmp_path / "killed_0"]
    kept = []
    while kills > 1:
        process = ablation_runs.start(data_dir, folders[-1])
        process.join(timeout=moments.uniform(0.2, 1.0) * seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            kills -= 1
            kept.append((folders[-1], ablation_runs.saved(folders[-1])))
        else:  # finished before its moment came: the next is killed in a folder of its own
            assert process.exitcode == 0
            folders.append(tmp_path / f"killed_{len(folders)}")
    kill_once_saved(data_dir, folders[-1])
    kept.append((folders[-1], ablation_runs.saved(folders[-1])))
    assert kept[-1][1]
    finish(data_dir, folders[-1])
    for folder in folders:
        assert ablation_runs.left(folder) == expected
    for folder, records in kept:
        assert ablation_runs.still_there(folder, records)


def command(data_dir: str, workdir: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Runs the entry point on the smoke of the demo's config, two arms of two seeds in two groups."""
    arguments = [
        "--config=configs/demo.py:smoke", f"--config.data.data_dir={data_dir}", f"--workdir={workdir}", "--seeds=2",
        "--axis=train.eval_steps=1,2", "--learning_rates=config", *flags,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, "experiments/ablate.py", *arguments], cwd=ROOT, env=environment, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip


def test_the_command_writes_a_command_for_each_group(data_dir: str, tmp_path: Path) -> None:
    done = command(data_dir, tmp_path / "runs", f"--emit={tmp_path}/commands.txt", "--execution=vmapped")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "commands.txt").read_text().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["--only=1", "--only=2"]
    assert all("--emit" not in line and "--execution=vmapped" in line for line in lines)
    assert done.stdout.strip().endswith("--collect")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow_study
def test_emitted_commands_train_all_and_exit_codes_tell_what_is_missing(data_dir: str, tmp_path: Path) -> None:
    wrong = command(data_dir, tmp_path / "runs", "--axis=heads.aux1.wieght=0,1")
    assert wrong.returncode == 2
    assert "did you mean 'weight'" in wrong.stderr
    wrong = command(data_dir, tmp_path / "runs", f"--emit={tmp_path}/commands.txt", "--execution=vmaped")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: unknown execution 'vmaped'") and wrong.stderr.count("\n") == 1
    assert not (tmp_path / "commands.txt").exists()
    assert not (tmp_path / "runs").exists()
    command(data_dir, tmp_path / "runs", f"--emit={tmp_path}/commands.txt")
    for line in (tmp_path / "commands.txt").read_text().splitlines():
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        missing = command(data_dir, tmp_path / "runs", "--collect")
        assert missing.returncode == 1
        assert "not finished" in missing.stderr
        subprocess.run([sys.executable, *shlex.split(line)[1:]], cwd=ROOT, env=environment, check=True, timeout=300)
    complete = command(data_dir, tmp_path / "runs", "--collect")
    assert complete.returncode == 0, complete.stderr
    assert complete.stdout.strip().endswith("report.html")
    assert (tmp_path / "runs" / "report" / "report.html").exists()


@pytest.fixture
def two_machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster whose head runs no task, with two machines of one CPU, and those two."""
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster, [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.shutdown()


@pytest.mark.slow_study
@pytest.mark.filterwarnings("ignore")
def test_an_ablation_on_ray_that_loses_a_machine_ends_with_the_same_numbers(
    two_machines: Any, data_dir: str, tmp_path: Path
) -> None:
    machines, nodes = two_machines
    made = ablation_runs.config(data_dir, **{"train.total_steps": 200, "train.checkpoint_steps": 10})
    grid = sweep.combinations(made, axes=["train.eval_steps=10,20"])
    alone = ablate.ablate(made, grid, tmp_path / "alone", seeds=[0, 1], progress=False)
    at_loss: list[int] = []
    kept: dict[str, str] = {}

    def lose_one() -> None:
        runs = tmp_path / "cluster" / "runs"
        while len({path.parts[-3] for path in runs.glob("*/checkpoints/*0")}) < 2:
            time.sleep(0.05)
        at_loss.append(len(list(runs.glob("*/DONE"))))
        kept.update(ablation_runs.saved(tmp_path / "cluster"))
        machines.remove_node(nodes[0], allow_graceful=False)

    thread = threading.Thread(target=lose_one, daemon=True)
    thread.start()
    cluster = workers.Cluster(address=machines.address)
    done = ablate.ablate(made, grid, tmp_path / "cluster", seeds=[0, 1], on_ray=cluster, progress=False)
    thread.join(timeout=60)
    assert at_loss == [0]
    assert len(kept) == 2 and ablation_runs.still_there(tmp_path / "cluster", kept)
    assert done.failures == []
    assert {name: outcome.evaluation for name, outcome in done.outcomes.items()} == {
        name: outcome.evaluation for name, outcome in alone.outcomes.items()
    }
    assert ablation_runs.left(tmp_path / "cluster") == ablation_runs.left(tmp_path / "alone")


@pytest.mark.slow_study
@pytest.mark.parametrize("way", ["vmapped", "devices"])
def test_members_trained_together_go_on_together_with_the_same_bits(
    way: str, data_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are done, one lost its last checkpoint, one is at its last step: the batch is filled up to what it was."""
    made = ablation_runs.config(data_dir)
    both = arms.make(made, sweep.combinations(made, axes=[ablation_runs.GRID]), ablation_runs.SEEDS)
    members = [config for arm in both for config in arm.configs]
    folders = [tmp_path / "runs" / name for arm in both for name in arm.runs]
    population.train_members(members, folders, execution=way, progress=False)
    before = ablation_runs.left(tmp_path)
    for folder in folders[1:3]:
        (folder / "DONE").unlink()
    shutil.rmtree(folders[2] / "checkpoints" / "4")
    first_steps = ablation_runs.first_steps(monkeypatch)
    # Nothing says how but what the folders kept.
    outcomes = population.train_members(members, folders, progress=False)
    assert [outcome.status for outcome in outcomes] == ["done"] * 4
    assert {(folder / ".execution").read_text() for folder in folders} == {way}
    assert ablation_runs.left(tmp_path) == before
    assert first_steps == {folders[2].name: 2}
