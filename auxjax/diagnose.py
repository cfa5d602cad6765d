"""diagnose(): diagnostics of a run's checkpoint on demand, kept beside those that were recorded while it trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from auxjax import batches, build, checkpoint, data, metrics, parallel, run, storage
from auxjax.data.host import read_examples
from auxjax.diagnostics.recording import FILE
from auxjax.diagnostics.registry import DIAGNOSTICS
from auxjax.errors import AuxjaxError, unknown
from auxjax.state import Batch, TrainState
from auxjax.storage import PathLike


def diagnose(
    workdir: PathLike, names: Sequence[str], *, step: int | str = "last", examples: int = 0, split: str = "train"
) -> list[dict[str, Any]]:
    """Returns the records of diagnostics of a run, and appends them to its `diagnostics.jsonl`.

    `step` is "last", "best", a number, or 0 for the state before the first step; `examples` are so many of a split,
    drawn once and for all, and a training batch's number where it is 0. They are not augmented. Each record has its
    "step", "split", "examples" and "seconds", compilation included.
    Raises AuxjaxError for unknown names, a folder without a run, and a step or a split that is not there.
    """
    for name in names:
        if name not in DIAGNOSTICS:
            raise unknown("diagnostic", name, DIAGNOSTICS)
    folder = storage.place(workdir)
    state, setup, config = load_state(folder, step)
    batch = draw(setup, config, split, examples or config.data.batch_size)
    common = {"step": int(state.step), "split": split, "examples": len(batch["label"])}
    records = []
    for name in names:
        start = time.perf_counter()
        found = DIAGNOSTICS[name](state, batch)
        records += [{**common, **record, "seconds": time.perf_counter() - start} for record in found]
    writer = metrics.JsonLines(folder / FILE)
    for record in records:
        writer.write_scalars(record["step"], {key: value for key, value in record.items() if key != "step"})
    writer.close()
    return records


def load_state(folder: storage.Folder, step: int | str = "last") -> tuple[TrainState, build.Setup, Any]:
    """Returns a run's whole state at a step on one device, its optimizer's and its weighting's too; the setup; config.

    Step 0 is the state before the first step. Raises AuxjaxError as `diagnose` does.
    """
    config = run.read_config(folder)
    with config.unlocked():
        config.parallel.update(mode="jit", num_devices=1)
        if step != 0:
            config.pretrained.path = ""  # what was imported is in the checkpoint; the file may be gone
    setup = build.setup(config)
    if step == 0:
        return setup.state, setup, config
    if not (folder / "checkpoints").is_dir():
        raise AuxjaxError(f"no checkpoint in {folder}: train with --workdir={folder} first, or take step 0")
    state = checkpoint.restore_state(folder, parallel.place_state(setup.where, setup.state), step)
    return state, setup, config


def draw(setup: build.Setup, config: Any, split: str, examples: int) -> Batch:
    """Returns so many examples of a split as a batch; raises AuxjaxError where it has fewer."""
    size = len(setup.dataset.split(split))
    if not 0 < examples <= size:
        raise AuxjaxError(f"examples={examples}, and split {split!r} has {size}")
    # In a random order, since some diagnostics cut the batch into parts, and sets may be sorted by class.
    positions = np.random.default_rng(0).permutation(size)[:examples]
    inputs = read_examples(setup.dataset, split, positions)
    spec = batches.batch_spec(config, setup.dataset)
    return jax.device_put(data.to_batch({}, inputs, spec))
