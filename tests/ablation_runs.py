"""A small ablation of two arms and two seeds, run in a process of its own that may be killed, and what it left."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import auxjax
from auxjax import metrics, sweep
from auxjax.population.members import Member
from tests import digits_runs

GRID = "heads.aux1.weight=0,0.3"
SEEDS = (0, 1)


def config(data_dir: str, **changes: Any) -> ConfigDict:
    """A PlainNet with BatchNorm and one head, four steps of the digits, a checkpoint at every other."""
    fewer = {"data.augment.flip": False, "data.eval_batch_size": 355, "data.validation_examples": 100}
    fewer |= {"train.total_steps": 4, "train.checkpoint_steps": 2, "parallel.num_devices": 1}
    return digits_runs.config(data_dir, **fewer | changes)


def run(data_dir: str, workdir: str) -> None:
    """Trains the ablation; runs alone in a process."""
    # Read when the first device is touched; one device compiles in half the time.
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    from auxjax import report
    from auxjax.ablate import ablate
    from auxjax.report.write import Written

    def write(paths: list[Path], out: Path) -> Written:
        return Written(out, "")

    report.write = write  # type: ignore[assignment]
    made = config(data_dir)
    done = ablate(made, sweep.combinations(made, axes=[GRID]), workdir, seeds=SEEDS, progress=False)
    raise SystemExit(done.exit_code)


def start(data_dir: str, workdir: Path) -> Any:
    """Starts `run` in a new process, forked from one that has imported everything and touched no device."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["auxjax.ablate", "tests.ablation_runs"])
    process = context.Process(target=run, args=(data_dir, str(workdir)))
    process.start()
    return process


def first_steps(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A dict that keeps the step at which each run's training in this process goes on; 0 where it begins anew."""
    found: dict[str, int] = {}
    trained = Member.trained

    def noted(self: Member, *args: Any) -> None:
        if self.folder is not None:
            found.setdefault(self.folder.name, self.step)
        trained(self, *args)

    monkeypatch.setattr(Member, "trained", noted)
    return found


def saved(workdir: Path) -> dict[str, str]:
    """Returns the records of each run up to its last checkpoint, as text: their speeds are of one training alone."""
    found = {}
    for folder in sorted((workdir / "runs").glob("*")):
        steps = [int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdecimal()]
        if steps:
            lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
            whole = (line for line in lines if line.endswith("\n"))
            found[folder.name] = "".join(line for line in whole if json.loads(line)["step"] <= max(steps))
    return found


def still_there(workdir: Path, records: Mapping[str, str]) -> bool:
    """Returns whether what was `saved` is what the runs' records begin with: none of it was trained again."""
    files = {name: workdir / "runs" / name / "metrics.jsonl" for name in records}
    return all(file.read_text().startswith(records[name]) for name, file in files.items())


def left(workdir: Path) -> dict[str, Any]:
    """Returns what an ablation left, by run: the final scores, every record without its speed, and the parameters."""
    found = {}
    for folder in sorted((workdir / "runs").iterdir()):
        records = metrics.read(folder / "metrics.jsonl")
        _, _, variables = auxjax.load_attached(folder)
        found[folder.name] = {
            "scores": json.loads((folder / "DONE").read_text()),
            "records": digits_runs.timeless(records),
            "variables": [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(variables)],
        }
    return found
