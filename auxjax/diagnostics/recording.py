"""Diagnostics inside training: measured on the batch of a step before it is taken, with their cost; nothing changes."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from auxjax import batches, build, data, metrics, parallel
from auxjax.config import due
from auxjax.diagnostics import gradient_norm, similarity, variance
from auxjax.diagnostics.by_loss import Names, names_of
from auxjax.state import Batch, TrainState
from auxjax.storage import Folder

logger = logging.getLogger("auxjax")

FILE = "diagnostics.jsonl"


class Diagnostic(NamedTuple):
    """`measure(state, batch, axis_name)` inside jit gives arrays, of which `record(names, values)` makes JSON."""

    measure: Callable[[TrainState, Batch, str | None], dict[str, jax.Array]]
    record: Callable[[Names, Mapping[str, Any]], dict[str, Any]]


# Those cheap enough for training; variance is the dearest, K pullbacks for each of eight parts of the batch.
IN_TRAINING: dict[str, Diagnostic] = {
    "gradient_norm": Diagnostic(gradient_norm.gradient_norm, gradient_norm.record),
    "similarity": Diagnostic(similarity.similarity, similarity.record),
    "variance": Diagnostic(variance.variance, variance.record),
}


@functools.lru_cache(maxsize=32)
def compiled(name: str, where: parallel.Layout, spec: data.BatchSpec) -> Callable[..., Any]:
    """Returns a diagnostic in training as a program of its own: `(state, resident, inputs) -> arrays`."""

    def diagnostic(state: TrainState, resident: Any, inputs: Any, axis_name: str | None = None) -> Any:
        batch = batches.training_batch(state, resident, inputs, spec=spec, axis_name=axis_name)
        return IN_TRAINING[name].measure(state, batch, axis_name)

    return parallel.compile_eval(where, diagnostic)


class Diagnostics:
    """Measures on placed states and inputs and writes a record each to `diagnostics.jsonl`, if there is a folder.

    Of a resumed run it keeps the records up to the step at which it goes on. Without `names` it does nothing.
    """

    def __init__(self, config: Any, setup: build.Setup, folder: Folder | None, progress: bool) -> None:
        self.records: list[dict[str, Any]] = []
        spec = batches.batch_spec(config, setup.dataset)
        self._functions = {name: compiled(name, setup.where, spec) for name in config.diagnostics.names}
        self._setup, self._progress, self._every = setup, progress, setup.every["diagnostics"]
        self._names = names_of(setup.state, {"image": setup.example}) if self._functions else Names((), ())
        self._path = None if folder is None or not self._functions else folder / FILE
        self._writer: metrics.JsonLines | None = None
        self._warm: set[str] = set()
        self._seconds, self._compiling, self._started = 0.0, 0.0, time.perf_counter()

    def __enter__(self) -> Diagnostics:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def start(self, step: int) -> None:
        """Opens the file at `step`, dropping what an interrupted run wrote past it."""
        if self._path is not None:
            metrics.truncate_after(self._path, step)
            self.records = metrics.read(self._path) if self._path.exists() else []
            self._writer = metrics.JsonLines(self._path)
        self._started = time.perf_counter()

    def measure(self, step: int, state: Any, resident: Any, inputs: Any) -> float:
        """Records every diagnostic of the step about to be taken, if they are due; returns the seconds that this took.

        They are due at the first step, every so often and at the last. A record's `seconds` are without compilation.
        """
        if not self._functions or not (step == 1 or due(step, self._every, self._setup.total_steps)):
            return 0.0
        jax.block_until_ready(state)
        entered = time.perf_counter()
        for name, function in self._functions.items():
            begin = time.perf_counter()
            if name not in self._warm:
                jax.block_until_ready(function(state, resident, inputs))
                self._warm.add(name)
                self._compiling += time.perf_counter() - begin
            start = time.perf_counter()
            values = parallel.fetch_metrics(self._setup.where, function(state, resident, inputs))
            seconds = time.perf_counter() - start
            self._write({"step": step, **IN_TRAINING[name].record(self._names, values), "seconds": seconds})
        elapsed = time.perf_counter() - entered
        self._seconds += elapsed
        return elapsed

    def flush(self) -> None:
        """Hands all records to the disk or the bucket."""
        if self._writer is not None:
            self._writer.flush()

    def finish(self) -> None:
        """Logs what the diagnostics cost of the run, and of that what compiling them did."""
        total = time.perf_counter() - self._started
        if self._seconds and self._progress:
            logger.info(
                "diagnostics took %.1f %% of the run: %.1f of %.1f s, of which %.1f s until each had run once",
                100 * self._seconds / total, self._seconds, total, self._compiling,
            )  # fmt: skip

    def _write(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        if self._writer is not None:
            self._writer.write_scalars(record["step"], {k: v for k, v in record.items() if k != "step"})
