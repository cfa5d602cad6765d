"""What a run tells while it trains: a bar, metrics to files, a history in memory; a NaN is never passed over."""

from __future__ import annotations

import collections
import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tqdm.auto

from auxjax import metrics, processes
from auxjax.errors import NotFiniteError
from auxjax.storage import Folder

logger = logging.getLogger("auxjax")

# So many steps skipped one after another end the run.
SKIPPED = 10
# Steps whose metrics are kept on the device, to find the first that was not finite.
_RECENT = 1000


class Recorder:
    """Writes a record every `log_every` steps and after each evaluation; reads a step's metrics when the next runs."""

    def __init__(self, config: Any, folder: Folder | None, total_steps: int, log_every: int, progress: bool) -> None:
        self.history: list[dict[str, Any]] = []
        self._total, self._every = total_steps, log_every
        self._pending: tuple[int, Mapping[str, Any]] | None = None
        self._recent: collections.deque[tuple[int, Mapping[str, Any]]] = collections.deque(maxlen=_RECENT)
        self._bar: Any = None
        self._config, self._folder, self._progress = config, folder, progress
        self._skips = config.train.non_finite == "skip"
        self._writer: Any = None
        self._clock = (0, time.perf_counter())

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def start(self, step: int) -> None:
        """Opens the writers and the bar at `step`, dropping what an interrupted run wrote past it.

        One process writes; all of them have the history, by which all decide alike.
        """
        if self._folder is not None:
            path = self._folder / "metrics.jsonl"
            if processes.is_writer():
                metrics.truncate_after(path, step)
            processes.barrier("metrics are truncated")
            self.history = metrics.read(path) if path.exists() else []
            if processes.is_writer():
                self._writer = metrics.open_writers(self._folder, self._config)
        self._bar = tqdm.auto.tqdm(
            total=self._total, initial=step, disable=None if self._progress else True, unit="step", dynamic_ncols=True
        )
        self._clock = (step, time.perf_counter())

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        """Takes a step's metrics, still being computed, and records those of the step before if they are due."""
        self.flush()
        self._recent.append((step, values))
        if step % self._every == 0 or step in (1, self._total):
            self._pending = (step, values)
        self._bar.update(1)

    def pause(self, seconds: float) -> None:
        """Leaves out of steps_per_second what else was done for so long."""
        step, then = self._clock
        self._clock = (step, then + seconds)

    def flush(self) -> None:
        """Records what is pending; raises NotFiniteError naming the loss that is not finite."""
        if self._pending is None:
            return
        (step, values), self._pending = self._pending, None
        scalars = _scalars(values)
        if self._skips:
            before_it = next((r for r in reversed(self.history) if r["split"] == "train"), {"step": 0})
            if said := skipped(before_it, step, scalars):
                logger.warning("%s", said)
        else:
            self._check_recent()
        before, then = self._clock
        self._clock = (step, time.perf_counter())
        rate = (step - before) / max(self._clock[1] - then, 1e-9)
        self._bar.set_postfix({k: f"{v:.3g}" for k, v in scalars.items() if k.startswith("loss/")}, refresh=False)
        self._write("train", step, scalars | {"steps_per_second": rate})

    def check(self) -> None:
        """Hands over all records; raises NotFiniteError unless the last step is finite and so can be saved."""
        self.flush()
        if not self._skips:
            self._check_recent()
        if self._writer is not None:
            self._writer.flush()

    def evaluation(self, split: str, step: int, scores: Mapping[str, float]) -> None:
        """Records an evaluation over a whole split."""
        self.flush()
        shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items() if name.startswith("accuracy/"))
        if self._progress:
            logger.info("step %d of %d: %s %s", step, self._total, split, shown)
        self._write(split, step, dict(scores))
        if self._writer is not None:
            self._writer.flush()
        self._clock = (step, time.perf_counter())

    def _check_recent(self) -> None:
        """Raises NotFiniteError, of the first step that was not finite, where the last one was not."""
        recent = list(self._recent)
        self._recent.clear()
        if recent and not_finite(recent[-1][0], _scalars(recent[-1][1])):
            errors = (not_finite(step, _scalars(values)) for step, values in recent)
            raise next(error for error in errors if error is not None)

    def _write(self, split: str, step: int, scalars: dict[str, float]) -> None:
        self.history.append({"step": step, "split": split, **scalars})
        if self._writer is not None:
            self._writer.write_scalars(step, {"split": split, **scalars})


def not_finite(step: int, scalars: Mapping[str, float]) -> NotFiniteError | None:
    """Returns the error that names the head whose loss is not finite, main last: a head's NaN spreads to it.

    Where all losses are finite and the gradient is not, that is named; None where all are.
    """
    last = ("loss/main", "loss/total", "grad_norm/total")
    bad = [name for name in scalars if name.startswith("loss/") or name in last]
    bad = [name for name in bad if not math.isfinite(scalars[name])]
    if not bad:
        return None
    name = min(bad, key=lambda name: last.index(name) if name in last else -1)
    return NotFiniteError(
        f"{name} is {scalars[name]} at step {step}: lower optimizer.learning_rate or that head's weight, set "
        "optimizer.clip_norm, or go on from the last checkpoint with train.non_finite=rollback",
        step,
    )


def skipped(before: Mapping[str, float], step: int, scalars: Mapping[str, float]) -> str:
    """Returns how many steps were skipped since the counts of a record before, and by which loss; empty if none.

    Raises NotFiniteError where the last SKIPPED and more were: the run goes nowhere.
    """
    names = [name for name in scalars if name.startswith("skipped/")]
    counts = {name.removeprefix("skipped/"): int(scalars[name] - before.get(name, 0.0)) for name in names}
    total, steps = counts.pop("total"), step - int(before["step"])
    causes = ", ".join(f"{name} in {count}" for name, count in counts.items() if count)
    said = f"{total} of the {steps} steps up to {step} were skipped, not finite: {causes}"
    if scalars["skipped_in_a_row"] >= SKIPPED:
        raise NotFiniteError(
            f"{said}; the last {scalars['skipped_in_a_row']:.0f} in a row: lower optimizer.learning_rate or that "
            "head's weight",
            step,
        )
    return said if total else ""


def _scalars(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(np.asarray(value).reshape(-1)[0]) for name, value in values.items()}
