"""One member of a population: its folder, records and checkpoints, each as `train` makes them for a run of its own."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from auxjax import checkpoint, data, metrics, run, stored
from auxjax.attach import strip
from auxjax.config import due
from auxjax.population.plan import Group, numbers_of
from auxjax.population.program import Compiled, initial_state
from auxjax.proof import prove_stripped
from auxjax.record import not_finite
from auxjax.state import TrainState

logger = logging.getLogger("auxjax")


class Member:
    """A member that is being trained; `own` tells which heads of the program are its own, and their names there.

    `diverged` and `failed` say what became of one that did not get to its end.
    """

    def __init__(
        self, group: Group, shared: Compiled, config: ConfigDict, own: Mapping[str, str], folder: Path | None
    ) -> None:
        self.config, self.folder, self.own = config, folder, own
        self.history: list[dict[str, Any]] = []
        self.diverged: str | None = None
        self.failed: Exception | None = None
        self.numbers = numbers_of(group, config, own)
        self.state = initial_state(group, shared, config)
        self.step = 0
        self.scores: dict[str, float] | None = None
        self._shared = shared
        # Heads of weight 0 are in the program, but a run of its own would not have them.
        self._shown = {name: own[name] for name in shared.program.names if name in own and _trained(config, own[name])}
        self._pipeline = data.open_pipeline(shared.dataset, config.data, config.seed)
        self._writer: Any = None
        self._manager: Any = None
        self._stack = contextlib.ExitStack()

    @property
    def lives(self) -> bool:
        """Whether it has neither diverged nor failed."""
        return self.diverged is None and self.failed is None

    def fail(self, error: Exception) -> None:
        """Keeps what it failed of, unless something else became of it before."""
        if self.lives:
            self.failed = error
            logger.error("%s failed: %s", self.folder or "a member", " ".join(str(error).split()))

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps an exception of the block as what this member failed of, so that it stops no other."""
        try:
            yield
        except Exception as error:
            self.fail(error)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Makes its folder, or goes on from what is there; afterwards closes writers and waits for checkpoints."""
        with self.alone():
            self._open()
        try:
            yield
        finally:
            with self.alone():
                self._stack.close()

    def _open(self) -> None:
        if self.folder is None:
            return
        run.check_folder(self.config, self.folder)
        run.describe(self.folder, self.config, self._shared.dataset)
        train = self.config.train
        self._manager = self._stack.enter_context(
            checkpoint.open_manager(self.folder, train.keep_last, train.keep_best)
        )
        restored = checkpoint.restore(self._manager, only_own(self.state, self.own))
        if restored is not None:
            self.state, position = merge_own(self.state, restored[0], self.own), restored[1]
            with stored.refusing(self._manager.directory):
                self._pipeline.restore(position)
            self.step = int(self.state.step)
        path = self.folder / "metrics.jsonl"
        metrics.truncate_after(path, self.step)
        self.history = metrics.read(path) if path.exists() else []
        self._writer = metrics.open_writers(self.folder, self.config)
        self._stack.callback(self._writer.close)

    def positions(self, count: int, longest: int) -> np.ndarray:
        """Returns the positions of the next `count` batches, int32[longest, B], filled up with zeros."""
        taken = [next(self._pipeline)["index"] for _ in range(count)]
        return np.concatenate([taken, np.zeros((longest - count, len(taken[0])), np.int32)])

    def trained(self, values: Mapping[str, np.ndarray], count: int, seconds: float) -> None:
        """Takes the metrics float32[>= count] of the next `count` steps, and records those that are due."""
        every, total = self._shared.every["log"], self._shared.total_steps
        finite = np.isfinite(values["loss/total"][:count]) & np.isfinite(values["grad_norm/total"][:count])
        last = count if finite.all() else int(np.argmin(finite))
        for i in range(last):
            step = self.step + i + 1
            if due(step, every, total) or step == 1:
                self._write("train", step, self._named(values, i) | {"steps_per_second": count / max(seconds, 1e-9)})
        self.step += last
        if last < count:
            self.diverged = str(not_finite(self.step + 1, self._named(values, last)))

    def evaluated(self, split: str, sums: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Takes the sums over a whole split and records the scores; those on the test split are kept."""
        own = {self._shown.get(name, name): s for name, s in sums.items() if name == "main" or name in self._shown}
        scores = metrics.scores(own)
        if not any((record["split"], record["step"]) == (split, self.step) for record in self.history):
            self._write(split, self.step, scores)
        self.scores = scores

    def save(self, state: TrainState) -> None:
        """Saves a state as the run's own, its stripped tree proven; nothing without a folder."""
        if self._manager is None:
            return
        prove_stripped(self._shared.program.attached, state.variables, strip(state.variables), self._shared.example)
        score = None
        if self.scores is not None and due(self.step, self._shared.every["eval"], self._shared.total_steps):
            score = self.scores["accuracy/main"]
        checkpoint.save(self._manager, only_own(state, self.own), self._pipeline.state(), score)

    def _named(self, values: Mapping[str, np.ndarray], i: int) -> dict[str, float]:
        """Returns a step's metrics under the member's own names; heads that it does not have are left out."""
        named = {}
        for key, series in values.items():
            kind, _, head = key.partition("/")
            if head in ("main", "total"):
                named[key] = float(series[i])
            elif head in self._shown:
                named[f"{kind}/{self._shown[head]}"] = float(series[i])
        return named

    def _write(self, split: str, step: int, scalars: dict[str, float]) -> None:
        self.history.append({"step": step, "split": split, **scalars})
        if self._writer is not None:
            self._writer.write_scalars(step, {"split": split, **scalars})


def _trained(config: ConfigDict, head: str) -> bool:
    return bool(config.heads[head]["weight"] != 0.0)


def only_own(state: TrainState, own: Mapping[str, str]) -> TrainState:
    """Returns the state without the heads of others, as the member's own program would have it."""
    return jax.tree.map(lambda node: _keep(node, own) if _halves(node) else node, state, is_leaf=_halves)


def merge_own(wide: TrainState, state: TrainState, own: Mapping[str, str]) -> TrainState:
    """Returns a member's own state with the heads of others as `wide` has them, laid out like `wide`."""
    leaves, structure = jax.tree.flatten(wide, is_leaf=_halves)
    new = jax.tree.leaves(state, is_leaf=_halves)
    return jax.tree.unflatten(
        structure, [_fill(a, b, own) if _halves(a) else b for a, b in zip(leaves, new, strict=True)]
    )


def _halves(node: Any) -> bool:
    return isinstance(node, Mapping) and set(node) == {"model", "heads"}


def _keep(node: Mapping[str, Any], own: Mapping[str, str]) -> dict[str, Any]:
    heads = node["heads"]
    return (
        {**node, "heads": {own[name]: heads[name] for name in own if name in heads}}
        if isinstance(heads, Mapping)
        else dict(node)
    )


def _fill(wide: Mapping[str, Any], node: Mapping[str, Any], own: Mapping[str, str]) -> dict[str, Any]:
    if not isinstance(wide["heads"], Mapping):
        return dict(node)
    return {**node, "heads": {**wide["heads"], **{n: node["heads"][o] for n, o in own.items() if o in node["heads"]}}}
