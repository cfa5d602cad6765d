"""The checkpoint manager of a run that trains: each step gets its manifest; one that is let go loses its name first.

Both are done in Orbax's own thread, so that no training step waits for them; `close` does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from auxjax import manifest
from auxjax.errors import AuxjaxError, TryAgainError
from auxjax.recovery import COMMITTED, DELETED, UNFINISHED, newest
from auxjax.storage import Folder, is_remote, remove_tree


class Manager(ocp.CheckpointManager):
    """Orbax's manager of a folder's checkpoints, which keeps the last and the best steps by main's evaluation."""

    def __init__(self, directory: Folder, keep_last: int, keep_best: int, handlers: Mapping[str, Any]) -> None:
        policies = checkpoint_managers
        keep = policies.AnyPreservationPolicy([
            policies.LatestN(n=keep_last),
            policies.BestN(get_metric_fn=score, n=keep_best, keep_checkpoints_without_metrics=False),
        ])  # fmt: skip
        self._folder, self._writing = directory, 0
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep,
            best_fn=score,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._sum),
            # Renamed first: a step that is half deleted when the run is killed must not look like a damaged one.
            todelete_subdir=DELETED,
        )
        super().__init__(directory, options=options, item_handlers=dict(handlers))

    def save_items(self, step: int, items: Any, metrics: Mapping[str, float] | None) -> None:
        """Saves a step in the background; raises AuxjaxError where this save cannot begin, or the one before failed."""
        if not is_remote(self._folder) and not self._folder.exists():
            raise AuxjaxError(f"{self.directory} is gone: the run cannot go on without its workdir; run it again")
        try:
            self.wait_until_finished()
            self._writing = step
            done = self.save(step, args=items, metrics=metrics, force=True)
        except Exception as error:
            raise not_written(self._folder, error) from error
        if not done:
            raise AuxjaxError(f"checkpoint of step {step} was not saved: {self.directory} already has a later one")

    def close(self) -> None:
        """Waits for what is being saved; raises AuxjaxError where that failed."""
        try:
            super().close()
        except Exception as error:
            raise not_written(self._folder, error) from error

    def _sum(self) -> None:
        """Writes the manifest of the step that is about to be committed; Orbax calls it in its first process only."""
        named = [self._folder / str(self._writing)]  # In a bucket a step has its final name from the first.
        for directory in named if is_remote(self._folder) else self._folder.glob(f"{self._writing}{UNFINISHED}*"):
            manifest.write(directory, self._writing, sealed=False)

    def _finalize(self, step: int, steps_to_remove: list[int]) -> None:
        # Orbax renames a step before it deletes it, but in a bucket: there it is no step without its last object.
        if jax.process_index() == 0 and is_remote(self._folder):
            for number in steps_to_remove:
                (self._folder / str(number) / COMMITTED).unlink(missing_ok=True)
        super()._finalize(step, steps_to_remove)
        if jax.process_index() == 0:
            manifest.seal(self._folder / str(step), step)
            remove_tree(self._folder / DELETED)


@contextlib.contextmanager
def writing(workdir: Folder | None) -> Iterator[None]:
    """Makes one line of what the system refuses, a full disk for one, with what is left and what to do."""
    try:
        yield
    except OSError as error:
        if workdir is None:
            raise
        raise TryAgainError(
            f"the run in {workdir} stopped ({one_line(error)}); {_left(workdir / 'checkpoints')}: mend that, and run "
            "the same command again, which goes on from there"
        ) from error


def not_written(directory: Folder, error: Exception) -> AuxjaxError:
    """Returns the one line for a checkpoint that could not be written: why, what is left, and what to do."""
    if isinstance(error, AuxjaxError):
        return error
    return TryAgainError(
        f"a checkpoint could not be written to {directory} ({one_line(error)}); {_left(directory)}: make room, or make "
        "the folder writable, and run the same command again, which goes on from there"
    )


def one_line(error: BaseException) -> str:
    """Returns what an error of another library says, on one line that is not too long."""
    said = " ".join(str(error).split())
    number = re.search(r"os_error_code='(\d+)'", said)  # at the very end of the much that TensorStore says
    if number or said.startswith("NOT_FOUND"):
        return os.strerror(int(number[1]) if number else errno.ENOENT)
    return f"{type(error).__name__}: {manifest.shown(said)}" if said else type(error).__name__


def _left(directory: Folder) -> str:
    try:
        step = newest(directory)
    except OSError:
        step = None
    return "no checkpoint is there yet" if step is None else f"the checkpoint of step {step} is whole"


def score(metrics: Mapping[str, float]) -> float:
    """Returns what steps are ranked by, larger being better."""
    return metrics["score"]
