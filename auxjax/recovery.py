"""Which checkpoints are whole: training sets aside the damaged ones and goes on; readers take another, and say so."""

from __future__ import annotations

import json
import logging
import math

from auxjax import manifest
from auxjax.errors import AuxjaxError
from auxjax.storage import Folder, children, is_file, is_folder, is_remote, move, remove_tree, size

logger = logging.getLogger("auxjax")

DELETED = "deleted"  # where steps go that are let go, until they are deleted
UNFINISHED = ".orbax-checkpoint-tmp"  # what the name of a step ends with until it is committed, on a disk
COMMITTED = "commit_success.txt"  # what a step in a bucket, where no name can be changed at once, has from then on
_LARGEST_RECORD = 2**20  # bytes of a small JSON file


def recover(workdir: Folder) -> list[int]:
    """Returns the steps of a run's folder that are whole, in order; what is damaged is moved to `damaged/` and logged.

    What an interrupted run left half written, or half deleted, is deleted: training makes it again, bit for bit.
    For the process that trains alone: nobody else may be writing to the folder.
    """
    directory = workdir / "checkpoints"
    if not directory.is_dir():
        return []
    _clear(directory)
    whole, damaged = [], False
    for path in sorted((path for path in children(directory) if path.name[:1].isdigit()), key=_order):
        reason = manifest.verify(path)
        if reason is None:
            _seal(path)
            whole.append(int(path.name))
        else:
            damaged = True
            target = _set_aside(path, workdir / "damaged")
            logger.warning("checkpoint %s is damaged (%s): moved to %s", manifest.shown(path.name), reason, target)
    if damaged and not whole:
        logger.warning("no whole checkpoint is left in %s: training starts anew", directory)
    return whole


def find_whole(workdir: Folder, step: int | str = "last") -> int:
    """Returns the number of a step whose files are whole; nothing is written, moved or deleted.

    "last" and "best" are the newest and the best of those that are whole, with a warning for each that was passed over.
    Raises AuxjaxError where there is none, and for a number that was not kept or is damaged.
    """
    directory = workdir / "checkpoints"
    numbers = steps(directory)
    if not numbers:
        raise AuxjaxError(f"no finished checkpoint in {directory}")
    if isinstance(step, int) and step in numbers:
        reason = manifest.verify(directory / str(step))
        if reason is not None:
            raise AuxjaxError(f"checkpoint of step {step} in {directory} is damaged ({reason}): take another step")
        return step
    if step not in ("last", "best"):
        raise AuxjaxError(f"no step {step!r} in {directory}; there are: last, best, {', '.join(map(str, numbers))}")
    reasons = []
    for number in sorted(numbers, key=(lambda n: (_score(directory / str(n)), n)) if step == "best" else None)[::-1]:
        reason = manifest.verify(directory / str(number))
        if reason is None:
            return number
        reasons.append(f"step {number}: {reason}")
        logger.warning("checkpoint of step %d in %s is damaged (%s): passed over", number, directory, reason)
    raise AuxjaxError(f"no whole checkpoint in {directory} ({'; '.join(reasons)}): train again with this workdir")


def steps(directory: Folder) -> list[int]:
    """Returns the numbers of the steps in a folder of checkpoints, in order, whole or not."""
    if not directory.is_dir():
        return []
    names = [path.name for path in children(directory) if path.name.isascii() and path.name.isdigit()]
    numbers = sorted(int(name) for name in names if len(name) < 20 and name == str(int(name)))
    return [number for number in numbers if is_committed(directory / str(number))]


def is_committed(step: Folder) -> bool:
    """Returns whether a step is not being written or deleted: on a disk its name tells, in a bucket its last object."""
    return not is_remote(step) or is_file(step / COMMITTED)


def newest(directory: Folder) -> int | None:
    """Returns the newest step whose files are whole; None where there is none."""
    return next((n for n in reversed(steps(directory)) if manifest.verify(directory / str(n)) is None), None)


def _score(step: Folder) -> float:
    """Returns main's evaluation at a step; minus infinity where it was not evaluated, or that cannot be read."""
    path = step / "metrics" / "metrics"
    try:
        if not is_file(path) or size(path) > _LARGEST_RECORD:
            return -math.inf
        value = json.loads(path.read_text())["score"]
        return float(value) if isinstance(value, int | float) and not math.isnan(value) else -math.inf
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return -math.inf


def _seal(step: Folder) -> None:
    """Seals a whole step whose run was killed as it was; the commit's record, which nothing covers, is not kept."""
    if not manifest.is_sealed(step):
        (step / manifest.MARKERS[0]).unlink(missing_ok=True)
        manifest.seal(step, int(step.name))


def _clear(directory: Folder) -> None:
    remove_tree(directory / DELETED)
    for path in children(directory):
        if (UNFINISHED in path.name and is_folder(path)) or (path.name.isdigit() and not is_committed(path)):
            remove_tree(path)
        elif path.name.startswith(".") and manifest.NAME in path.name:
            path.unlink()


def _set_aside(path: Folder, folder: Folder) -> Folder:
    number = 1
    while (target := folder / f"{path.name}-{number}").exists():
        number += 1
    move(path, target)
    return target


def _order(path: Folder) -> tuple[int, str]:
    return len(path.name), path.name
