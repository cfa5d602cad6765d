"""What a run tells while it trains: a bar, metrics to files, a history in memory; a NaN is never passed over."""

from __future__ import annotations

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

# So many steps skipped one after another, and no other since the last record, end the run.
SKIPPED = 10


class Recorder:
    """Writes a record every `log_every` steps and after each evaluation; reads a step's metrics when the next runs."""

    def __init__(self, config: Any, folder: Folder | None, total_steps: int, log_every: int, progress: bool) -> None:
        self.history: list[dict[str, Any]] = []
        self._total, self._every = total_steps, log_every
        self._pending: tuple[int, Mapping[str, Any]] | None = None
        self._latest: tuple[int, Mapping[str, Any]] | None = None
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
        self._latest = (step, values)
        if step % self._every == 0 or step in (1, self._total):
            self._pending = self._latest
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
            last = self._last_train_record()
            warn_skipped(last, scalars | {"step": step}, step - int(last["step"]))
        elif error := not_finite(step, scalars):
            raise error
        before, then = self._clock
        self._clock = (step, time.perf_counter())
        rate = (step - before) / max(self._clock[1] - then, 1e-9)
        self._bar.set_postfix({k: f"{v:.3g}" for k, v in scalars.items() if k.startswith("loss/")}, refresh=False)
        self._write("train", step, scalars | {"steps_per_second": rate})

    def check(self) -> None:
        """Hands over all records; raises NotFiniteError unless the last step is finite and so can be saved."""
        self.flush()
        unchecked = None if self._skips else self._latest
        if unchecked is not None and (error := not_finite(unchecked[0], _scalars(unchecked[1]))):
            raise error
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

    def _last_train_record(self) -> Mapping[str, Any]:
        return next((r for r in reversed(self.history) if r["split"] == "train"), {"step": 0})

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
        "optimizer.clip_norm, or choose train.non_finite=skip or rollback; the last checkpoint is whole",
        step,
    )


def warn_skipped(before: Mapping[str, float], now: Mapping[str, float], steps: int) -> None:
    """Logs how many of the last `steps` steps were skipped and by which loss; `before` holds the counts before them.

    Raises NotFiniteError where all of them were, and they are SKIPPED or more: the run goes nowhere.
    """
    counts = {name: int(now[name] - before.get(name, 0.0)) for name in now if name.startswith("skipped/")}
    total, step = counts.pop("skipped/total"), int(now["step"])
    if not total:
        return
    causes = ", ".join(f"{name.removeprefix('skipped/')} in {count}" for name, count in counts.items() if count)
    said = f"{total} of the {steps} steps up to {step} were skipped, not finite: {causes}"
    if total == steps >= SKIPPED:
        raise NotFiniteError(f"{said}; lower optimizer.learning_rate or that head's weight", step)
    logger.warning("%s", said)


def _scalars(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(np.asarray(value).reshape(-1)[0]) for name, value in values.items()}
