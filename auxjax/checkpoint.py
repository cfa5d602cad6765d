"""Orbax checkpoints: the whole state with the data position, and beside it the tree to ship, without any head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from auxjax import processes
from auxjax.attach import strip
from auxjax.errors import AuxjaxError
from auxjax.recovery import find_whole, recover
from auxjax.saving import Manager, not_written
from auxjax.step import TrainState
from auxjax.storage import Folder
from auxjax.stored import check_stored, read_stored, refusing


def open_manager(workdir: Folder, keep_last: int = 2, keep_best: int = 1) -> Manager:
    """Returns the manager of `workdir/checkpoints`, for the run that trains there: only whole steps are left in it.

    It keeps the last and the best steps by main's evaluation. What was damaged is first moved to `workdir/damaged`.
    """
    handlers = {
        "state": ocp.StandardCheckpointHandler(),
        "position": ocp.JsonCheckpointHandler(),
        "metrics": ocp.JsonCheckpointHandler(),
        "inference": ocp.StandardCheckpointHandler(),
    }
    processes.together(lambda: _recover(workdir))
    try:
        return Manager(workdir / "checkpoints", keep_last, keep_best, handlers)
    except OSError as error:
        raise not_written(workdir / "checkpoints", error) from error


def save(manager: Manager, state: TrainState, position: Mapping[str, Any], score: float | None) -> None:
    """Saves the state, the data position and the stripped tree under the state's step, in the background.

    `score` is main's evaluation metric, larger being better; None where it was not evaluated at this step. Raises
    AuxjaxError where this cannot be written, or what was being saved before could not.
    """
    step = int(state.step)
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(as_tree(state)),
        position=ocp.args.JsonSave(dict(position)),
        inference=ocp.args.StandardSave(strip(state.variables)),
    )
    if step not in manager.all_steps():
        manager.save_items(step, items, None if score is None else {"score": score})


def as_tree(state: TrainState) -> dict[str, Any]:
    """Returns the state's arrays as a dict, the optimizer's nested tuples flattened into a list of leaves."""
    fields = ("step", "params", "statistics", "ema_params", "skipped", "key")
    tree = {name: getattr(state, name) for name in fields}
    return tree | {name: dict(_numbered(getattr(state, name))) for name in ("opt_state", "weighting_state")}


def restore(manager: Manager, state: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
    """Returns the newest saved state, laid out like `state`, and its data position; None where nothing was saved.

    Raises AuxjaxError, naming the first array that differs, where the checkpoint is of another model.
    """
    step = manager.latest_step()
    if step is None:
        return None
    directory = manager.directory / str(step)
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, as_tree(state))
    check_stored(directory / "state", abstract, _of_another_model(directory / "state"))
    items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), position=ocp.args.JsonRestore())
    with refusing(directory):
        restored = manager.restore(step, args=items)
    return _rebuilt(state, restored["state"]), dict(restored["position"])


def restore_state(workdir: Folder, state: TrainState, step: int | str = "last") -> TrainState:
    """Returns a run's saved state, laid out like `state`; a training may be going on in the folder.

    `step` is "last", "best" or a number. Raises AuxjaxError for a step that was not kept or is damaged, and, naming the
    first array that differs, where the checkpoint is of another model.
    """
    directory = workdir / "checkpoints" / str(find_step(workdir, step)) / "state"
    return _rebuilt(state, _read(directory, as_tree(state)))


def restore_inference(workdir: Folder, bare: Any, step: int | str = "last") -> Any:
    """Returns the stripped variables of one step ("last", "best" or a number), in `bare`, the model's own shapes.

    Raises AuxjaxError where there is no checkpoint, no such step, or an array that the bare model does not have.
    """
    return _read(workdir / "checkpoints" / str(find_step(workdir, step)) / "inference", _on_one_device(bare))


def restore_variables(workdir: Folder, halves: Any, step: int | str = "last", *, ema: bool = False) -> dict[str, Any]:
    """Returns a step's variables with both halves, laid out like `halves`; no optimizer state is read.

    The parameters are the averaged ones where the run has them (`ema`), as `TrainState.variables` gives them. Raises
    AuxjaxError where there is no checkpoint, no such step, or a checkpoint of other heads or another model.
    """
    params = "ema_params" if ema else "params"
    wanted = {params: halves["params"], "statistics": {c: v for c, v in halves.items() if c != "params"}}
    directory = workdir / "checkpoints" / str(find_step(workdir, step)) / "state"
    read = _read(directory, _on_one_device(wanted), partial=True)
    return {"params": read[params], **read["statistics"]}


def find_step(workdir: Folder, step: int | str = "last") -> int:
    """Returns the number of a whole step ("last", "best" or a number); raises AuxjaxError where there is none."""
    if not (workdir / "checkpoints").is_dir():
        raise AuxjaxError(f"no checkpoint in {workdir}: train with --workdir={workdir} first")
    return find_whole(workdir, step)


def _read(directory: Folder, expected: Any, *, partial: bool = False) -> Any:
    return read_stored(directory, expected, _of_another_model(directory), partial=partial)


def _of_another_model(item: Folder) -> str:
    return f"{item.parent.parent} has a checkpoint of another model"


def _rebuilt(state: TrainState, tree: Mapping[str, Any]) -> TrainState:
    """Returns the state that `as_tree` made a dict of, with the nested tuples of `state`."""
    new = dict(tree)
    for name in ("opt_state", "weighting_state"):
        structure = jax.tree.structure(getattr(state, name))
        new[name] = jax.tree.unflatten(structure, [new[name][key] for key, _ in _numbered(getattr(state, name))])
    return state.replace(**new)


def _on_one_device(tree: Any) -> Any:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), tree)


def _recover(workdir: Folder) -> None:
    """Leaves whole steps alone in a run's folder, by process 0; raises AuxjaxError where the disk refuses that."""
    if processes.is_writer():
        try:
            recover(workdir)
        except OSError as error:
            raise AuxjaxError(str(error)) from error


def _numbered(tree: Any) -> list[tuple[str, Any]]:
    """Returns the leaves of optax's nested tuples by path, since Orbax restores dicts alone without a template."""
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]
