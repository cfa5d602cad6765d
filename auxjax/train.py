"""train(config, workdir) -> Result: set up, then one loop; evaluate(workdir) measures the shipped network."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from auxjax import build, checkpoint, described, parallel, preemption, processes, rollback, run, saving, stored
from auxjax.attach import Attached, attach, strip
from auxjax.check import finalize
from auxjax.config import due
from auxjax.diagnostics.recording import Diagnostics
from auxjax.errors import AuxjaxError, NotFiniteError
from auxjax.preflight.keep import load_step
from auxjax.proof import bare_shapes, prove_stripped
from auxjax.record import Recorder
from auxjax.step import TrainState
from auxjax.storage import Folder, PathLike

logger = logging.getLogger("auxjax")


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run leaves: its finished config, folder (None in memory), last state, logged records and final metrics.

    `state` is as the last step left it, with both halves; `variables` is what is shipped. With several processes every
    one has all of it, on the host; process 0 alone has the diagnostics from before this call.
    """

    config: Any
    workdir: Folder | None
    state: TrainState
    history: list[dict[str, Any]]
    evaluation: dict[str, float]
    diagnostics: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def variables(self) -> dict[str, Any]:
        """The stripped variables, as the bare model's `apply` takes them."""
        return strip(self.state.variables)


def train(
    config: Any, workdir: PathLike | None = None, *, progress: bool = True, compiled: str | Path | None = None
) -> Result:
    """Trains what `config` describes and returns the Result; with `workdir`, saves it there and resumes what is there.

    `compiled` is a step that `preflight` kept for this config and these devices; it is loaded in place of compiling.
    It is a pickle, which runs code as it is read: give only a file that you made yourself.

    Everything that can be wrong with the config, the data, the devices or the folder is an AuxjaxError before the first
    step, and so is a strip proof that fails. A loss or gradient that is not finite is met as
    `config.train.non_finite` says; a run that it stops raises NotFiniteError, naming the head. SIGTERM ends a run that
    has a workdir with `Preempted`, once its step is done and saved; a disk that is full or gone ends it with an
    AuxjaxError naming the last whole checkpoint. Several processes (`auxjax.processes.start`) all call this alike, and
    what is wrong in one of them is raised in all.
    """
    config = finalize(config)
    processes.together(lambda: run.check_same(config))
    folder = None if workdir is None else run.shared_folder(config, workdir)
    if config.train.non_finite == "rollback" and folder is None:
        raise AuxjaxError("train.non_finite=rollback has no checkpoint to go back to: give a workdir")
    with preemption.watched() if folder is not None else contextlib.nullcontext(preemption.never) as preempted:
        while True:
            lowered = rollback.lowered(config, folder)
            try:
                return _train(config, lowered, folder, progress, compiled if lowered == config else None, preempted)
            except NotFiniteError as error:
                with saving.writing(folder):
                    _go_back(config, folder, error)


def _go_back(config: Any, folder: Folder | None, error: NotFiniteError) -> None:
    """Notes that the run rolls back; where it may not, writes FAILED, by which a report counts it, and raises."""
    try:
        rollback.note(config, folder, error)
    except NotFiniteError as last:
        if folder is not None and processes.is_writer():
            run.mark_failed(folder, "diverged", str(last), last.step)
        raise


def _train(
    config: Any, lowered: Any, folder: Folder | None, progress: bool, compiled: str | Path | None,
    preempted: Callable[[int], bool],
) -> Result:  # fmt: skip
    """Trains by `lowered`, which is `config` with the learning rate that the run has come to."""
    setup = processes.together(lambda: build.setup(lowered))
    progress = progress and processes.is_writer()
    written = folder if processes.is_writer() else None
    if compiled is not None and processes.count() > 1:
        raise AuxjaxError("a compiled step is one process's: leave out --compiled with several")
    if compiled is not None:
        setup = setup._replace(train_step=load_step(compiled, config, setup.where))
    _prove(setup, setup.state)
    if progress:
        logger.info("%s", build.cost_table(setup))
    with contextlib.ExitStack() as stack:
        stack.enter_context(saving.writing(folder))
        if written is not None:
            run.describe(written, config, setup.dataset)
            (written / "FAILED").unlink(missing_ok=True)
        recorder = stack.enter_context(Recorder(config, folder, setup.total_steps, setup.every["log"], progress))
        diagnostics = stack.enter_context(Diagnostics(config, setup, written, progress))
        manager = None
        if folder is not None:
            manager = stack.enter_context(
                checkpoint.open_manager(folder, config.train.keep_last, config.train.keep_best)
            )
        state, evaluation = _loop(setup, recorder, diagnostics, manager, preempted)
    if written is not None:
        with saving.writing(written):
            run.mark_done(written, setup.total_steps, evaluation)
    last = parallel.gather(setup.where, parallel.fetch_state(setup.where, state))
    processes.barrier("done")
    return Result(config, folder, last, recorder.history, evaluation, diagnostics.records)


def evaluate(workdir: PathLike, split: str = "test", step: int | str = "last") -> dict[str, float]:
    """Returns main's loss and accuracy over a whole split, from a run's stripped tree; no head is built.

    Raises AuxjaxError for a folder without a run, an unknown split and a step that was not kept.
    """
    folder, config, dataset = described.read(workdir, "main", "data", "model", "dtype")
    return build.evaluate_bare(config, *_bare(folder, config, dataset, step), split)


def load(workdir: PathLike, step: int | str = "last") -> tuple[Any, nn.Module, dict[str, Any]]:
    """Returns (config, model, variables) of a run for inference: `model.apply(variables, x, train=False)`.

    `step` is "last", "best" or a number. No head is built and no data set is read. Raises AuxjaxError where there is no
    run, no such step, or a checkpoint of another model.
    """
    folder, config, dataset = described.read(workdir, "model", "dtype")
    return config, *_bare(folder, config, dataset, step)


def load_attached(workdir: PathLike, step: int | str = "last") -> tuple[Any, Attached, dict[str, Any]]:
    """Returns (config, attached, variables) of a run with its heads: `attached.apply(variables, x, train=...)`.

    `step` and what is raised are as for `load`; the optimizer's state is not read.
    """
    folder, config, dataset = described.read(workdir, "model", "dtype", "heads", "optimizer")
    with described.building(folder):
        classes = dataset["num_classes"]
        attached = attach(build.model(config, classes), build.heads(config, classes))
        image = jax.ShapeDtypeStruct((1, *dataset["image_shape"]), jnp.float32)
        halves = jax.eval_shape(attached.init, jax.eval_shape(lambda: jax.random.key(0)), image)
    ema = config["optimizer"]["ema_decay"] > 0
    return config, attached, checkpoint.restore_variables(folder, halves, step, ema=ema)


def _bare(folder: Folder, config: Any, dataset: dict[str, Any], step: int | str) -> tuple[nn.Module, dict[str, Any]]:
    """Returns the bare model of a run and its stripped variables."""
    with described.building(folder):
        model = build.model(config, dataset["num_classes"])
        bare = bare_shapes(model, jax.ShapeDtypeStruct((1, *dataset["image_shape"]), jnp.float32))
    return model, checkpoint.restore_inference(folder, bare, step)


def _loop(
    setup: build.Setup, recorder: Recorder, diagnostics: Diagnostics, manager: ocp.CheckpointManager | None,
    preempted: Callable[[int], bool],
) -> tuple[Any, dict[str, float]]:  # fmt: skip
    """Runs the steps that are left; returns the placed state and the test split's scores."""
    where, total, every, pipeline = setup.where, setup.total_steps, setup.every, setup.pipeline
    state = setup.state if manager is None else _resume(setup, manager)
    start = int(state.step)
    recorder.start(start)
    diagnostics.start(start)
    resident = {
        split: parallel.place_resident(where, pipeline.resident(split)) for split in {"train", "test", setup.eval_split}
    }
    placed, scores = parallel.place_state(where, state), None
    for step in range(start + 1, total + 1):
        inputs = parallel.place_batch(where, next(pipeline))
        recorder.pause(diagnostics.measure(step, placed, resident["train"], inputs))
        placed, metrics = setup.train_step(placed, resident["train"], inputs)
        recorder.step(step, metrics)
        evaluated = due(step, every["eval"], total)
        if evaluated:
            scores = build.evaluate(setup, placed, resident[setup.eval_split], setup.eval_split)
            recorder.evaluation(setup.eval_split, step, scores)
        stopped = preempted(step)
        if manager is not None and (stopped or due(step, every["checkpoint"], total)):
            recorder.check()
            diagnostics.flush()
            score = scores["accuracy/main"] if evaluated and scores else None
            _save(setup, manager, parallel.fetch_state(where, placed), score)
            if stopped:
                raise preemption.Preempted(step)
    recorder.flush()
    if scores is None or setup.eval_split != "test":
        scores = build.evaluate(setup, placed, resident["test"], "test")
        # A run may have been killed between its last checkpoint and this record.
        if all((record["split"], record["step"]) != ("test", total) for record in recorder.history):
            recorder.evaluation("test", total, scores)
    diagnostics.finish()
    return placed, scores


def _resume(setup: build.Setup, manager: ocp.CheckpointManager) -> TrainState:
    """Returns the newest saved state, the pipeline at its position; the first state where nothing was saved."""
    restored = checkpoint.restore(manager, parallel.saved_layout(setup.where, setup.state))
    if restored is None:
        return setup.state
    state, position = restored
    with stored.refusing(manager.directory):
        setup.pipeline.restore(position)
    logger.info("resuming at step %d of %d", int(state.step), setup.total_steps)
    return state


def _save(setup: build.Setup, manager: ocp.CheckpointManager, state: TrainState, score: float | None) -> None:
    """Saves a state whose tree to ship is proven equal to a network that never had heads."""
    _prove(setup, state)
    checkpoint.save(manager, state, setup.pipeline.state(), score)


def _prove(setup: build.Setup, state: TrainState) -> None:
    variables = parallel.gather(setup.where, state.variables)
    prove_stripped(setup.program.attached, variables, strip(variables), setup.example)
