"""Orbax checkpoints: the whole state with the data position, and beside it the tree to ship, without any head."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from auxjax.attach import strip
from auxjax.errors import AuxjaxError
from auxjax.proof import check_paths, paths
from auxjax.step import TrainState


def check_workdir(workdir: str | os.PathLike[str]) -> Path:
    """Returns the absolute path of a folder that can be written, made if need be; raises AuxjaxError if it cannot."""
    path = Path(os.path.abspath(os.path.expanduser(workdir)))
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write_test_{uuid.uuid4().hex}"  # processes of several hosts may look at once
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise AuxjaxError(
            f"workdir {str(path)!r} cannot be written: {error.strerror}; give --workdir a folder of your own"
        ) from None
    return path


def open_manager(workdir: Path, keep_last: int = 1, keep_best: int = 1) -> ocp.CheckpointManager:
    """Returns the manager of `workdir/checkpoints`, which keeps the last and the best steps by main's evaluation."""
    policies = checkpoint_managers
    keep = policies.AnyPreservationPolicy([
        policies.LatestN(n=keep_last),
        policies.BestN(get_metric_fn=_score, n=keep_best, keep_checkpoints_without_metrics=False),
    ])  # fmt: skip
    options = ocp.CheckpointManagerOptions(preservation_policy=keep, best_fn=_score)
    handlers = {
        "state": ocp.StandardCheckpointHandler(),
        "position": ocp.JsonCheckpointHandler(),
        "metrics": ocp.JsonCheckpointHandler(),
        "inference": ocp.StandardCheckpointHandler(),
    }
    return ocp.CheckpointManager(workdir / "checkpoints", options=options, item_handlers=handlers)


def save(manager: ocp.CheckpointManager, state: TrainState, position: Mapping[str, Any], score: float | None) -> None:
    """Saves the state, the data position and the stripped tree under the state's step, in the background.

    `score` is main's evaluation metric, larger being better; None where it was not evaluated at this step.
    """
    step = int(state.step)
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(as_tree(state)),
        position=ocp.args.JsonSave(dict(position)),
        inference=ocp.args.StandardSave(strip(state.variables)),
    )
    if step in manager.all_steps():
        return
    metrics = None if score is None else {"score": score}
    if not manager.save(step, args=items, metrics=metrics, force=True):
        raise AuxjaxError(f"checkpoint of step {step} was not saved: {manager.directory} already has a later one")


def as_tree(state: TrainState) -> dict[str, Any]:
    """Returns the state's arrays as a dict, the optimizer's nested tuples flattened into a list of leaves."""
    fields = ("step", "params", "statistics", "ema_params", "skipped", "key")
    tree = {name: getattr(state, name) for name in fields}
    return tree | {name: dict(_numbered(getattr(state, name))) for name in ("opt_state", "weighting_state")}


def restore(
    manager: ocp.CheckpointManager, state: TrainState, step: int | str = "last"
) -> tuple[TrainState, dict[str, Any]] | None:
    """Returns a saved state, laid out like `state`, and its data position; None where nothing was saved.

    `step` is "last", "best" or a number. Raises AuxjaxError for a step that was not kept, and, naming the first array
    that differs, where the checkpoint is of another model.
    """
    if manager.latest_step() is None:
        return None
    number = _step_number(manager, step)
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, as_tree(state))
    saved = manager.item_metadata(number)["state"]
    check_paths(_metadata_paths(saved), paths(abstract), f"{manager.directory} has a checkpoint of another model")
    items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), position=ocp.args.JsonRestore())
    restored = manager.restore(number, args=items)
    tree = dict(restored["state"])
    for name in ("opt_state", "weighting_state"):
        structure = jax.tree.structure(getattr(state, name))
        tree[name] = jax.tree.unflatten(structure, [tree[name][key] for key, _ in _numbered(getattr(state, name))])
    return state.replace(**tree), dict(restored["position"])


def restore_inference(workdir: Path, bare: Any, step: int | str = "last") -> Any:
    """Returns the stripped variables of one step ("last", "best" or a number), in `bare`, the model's own shapes.

    Raises AuxjaxError where there is no checkpoint, no such step, or an array that the bare model does not have.
    """
    if not (workdir / "checkpoints").is_dir():
        raise AuxjaxError(f"no checkpoint in {workdir}: train with --workdir={workdir} first")
    with open_manager(workdir) as manager:
        number = _step_number(manager, step)
        saved = _metadata_paths(manager.item_metadata(number)["inference"])
        check_paths(saved, paths(bare), f"{manager.directory} has a checkpoint of another model")
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), bare)
        items = ocp.args.Composite(inference=ocp.args.StandardRestore(abstract))
        return manager.restore(number, args=items)["inference"]


def restore_variables(workdir: Path, halves: Any, step: int | str = "last", *, ema: bool = False) -> dict[str, Any]:
    """Returns a step's variables with both halves, laid out like `halves`; no optimizer state is read.

    The parameters are the averaged ones where the run has them (`ema`), as `TrainState.variables` gives them. Raises
    AuxjaxError where there is no checkpoint, no such step, or a checkpoint of other heads or another model.
    """
    if not (workdir / "checkpoints").is_dir():
        raise AuxjaxError(f"no checkpoint in {workdir}: train with --workdir={workdir} first")
    params = "ema_params" if ema else "params"
    wanted = {params: halves["params"], "statistics": {c: v for c, v in halves.items() if c != "params"}}
    with open_manager(workdir) as manager:
        number = _step_number(manager, step)
        directory = manager.directory / str(number) / "state"
        saved = {key: value for key, value in _tree(manager.item_metadata(number)["state"]).items() if key in wanted}
        check_paths(_metadata_paths(saved), paths(wanted), f"{manager.directory} has a checkpoint of another model")
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), wanted)
    with ocp.PyTreeCheckpointer() as checkpointer:
        arguments = ocp.checkpoint_utils.construct_restore_args(abstract)
        read = checkpointer.restore(
            directory, args=ocp.args.PyTreeRestore(abstract, restore_args=arguments, partial_restore=True)
        )
    return {"params": read[params], **read["statistics"]}


def find_step(workdir: Path, step: int | str = "last") -> int:
    """Returns the number of a saved step ("last", "best" or a number); raises AuxjaxError where it was not kept."""
    with open_manager(workdir) as manager:
        return _step_number(manager, step)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, path)


def _score(metrics: Mapping[str, float]) -> float:
    return metrics["score"]


def _step_number(manager: ocp.CheckpointManager, step: int | str) -> int:
    steps = sorted(manager.all_steps())
    if not steps:
        raise AuxjaxError(f"no finished checkpoint in {manager.directory}")
    if step == "last":
        return steps[-1]
    if step == "best":
        scores = {n: manager.metrics(n) for n in steps}
        scored = {n: metrics["score"] for n, metrics in scores.items() if metrics}
        return max(scored, key=lambda n: (scored[n], n)) if scored else steps[-1]
    if isinstance(step, int) and step in steps:
        return step
    raise AuxjaxError(f"no step {step!r} in {manager.directory}; there are: last, best, {', '.join(map(str, steps))}")


def _metadata_paths(metadata: Any) -> dict[str, str]:
    return paths(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _tree(metadata)))


def _tree(metadata: Any) -> Any:
    return metadata.tree if hasattr(metadata, "tree") else metadata


def _numbered(tree: Any) -> list[tuple[str, Any]]:
    """Returns the leaves of optax's nested tuples by path, since Orbax restores dicts alone without a template."""
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]
