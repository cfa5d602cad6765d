"""Runs to be hit: a small training, in one or several processes that start quickly."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from supervise import environments

from auxjax import config as configs
from auxjax import data


class Run(NamedTuple):
    """A run's processes, when they were started, and their folder."""

    processes: list[Any]
    folder: Path
    begun: float


def small(data_dir: str, steps: int) -> ConfigDict:
    """Returns a run of some ten seconds, its first data prepared in the folder, that saves every fifth step."""
    data.prepare("digits", data_dir)
    config = configs.base()
    config.model = {"name": "plainnet", "depth": 2, "width": 16, "norm": "batch"}
    config.heads = {"aux1": configs.head(at="layer_1", kind="linear")}
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    config.data.update(data_dir=data_dir, batch_size=32, eval_batch_size=360)
    config.data.augment.flip = True
    config.train.update(total_epochs=0.0, total_steps=steps, eval_epochs=0.0, eval_steps=20, log_steps=3)
    config.train.update(checkpoint_epochs=0.0, checkpoint_steps=5)
    return config


def train(config: str, folder: str, variables: dict[str, str]) -> None:
    """Trains, in a process of its own that has touched no device."""
    os.environ.update(variables)
    logging.getLogger("absl").setLevel(logging.ERROR)
    from auxjax import processes
    from auxjax.train import train

    processes.start()
    train(configs.from_json(config), folder, progress=False)


def start(config: ConfigDict, folder: Path, count: int) -> Run:
    """Starts a run's processes, forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["auxjax", "orbax.checkpoint", "recovery.runs"])
    arguments = [(configs.to_json(config), str(folder), variables) for variables in environments(count)]
    started = [context.Process(target=train, args=given) for given in arguments]
    for process in started:
        process.start()
    return Run(started, folder, time.monotonic())


def wait(run: Run, seconds: float) -> bool:
    """Returns whether all processes of a run end within so many seconds."""
    end = time.monotonic() + seconds
    for process in run.processes:
        process.join(max(end - time.monotonic(), 0))
    return all(process.exitcode is not None for process in run.processes)


def untouched(config: ConfigDict, folder: Path, count: int) -> float:
    """Trains a run that keeps every checkpoint; returns the seconds of one that keeps as many as the others."""
    keeping = config.copy_and_resolve_references()
    keeping.train.update(checkpoint_steps=1, keep_last=config.train.total_steps)
    assert wait(start(keeping, folder, count), 600) and (folder / "DONE").exists(), "the untouched run did not end"
    begun = time.monotonic()
    assert wait(start(config, folder.with_name("timed"), count), 600)
    return time.monotonic() - begun
