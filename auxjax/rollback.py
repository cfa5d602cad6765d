"""Rollback from a loss that is not finite: to the last checkpoint, and on from there at a lower learning rate."""

from __future__ import annotations

import logging
from typing import Any

from ml_collections import ConfigDict

from auxjax import processes
from auxjax.errors import AuxjaxError, NotFiniteError
from auxjax.storage import Folder, read_text, write_json
from auxjax.untrusted import parse

logger = logging.getLogger("auxjax")

FILE = "rollbacks.json"
# Each rollback halves the learning rate; a run that needs more of them will not get better.
FACTOR, MOST = 0.5, 5


def lowered(config: ConfigDict, folder: Folder | None) -> ConfigDict:
    """Returns the config at the learning rate that the rollbacks noted in the run's folder have left."""
    count = 0 if folder is None else len(_read(folder))
    if not count:
        return config
    changed = config.copy_and_resolve_references()
    changed.optimizer.learning_rate = config.optimizer.learning_rate * FACTOR**count
    return changed.lock()


def note(config: ConfigDict, folder: Folder | None, error: NotFiniteError) -> None:
    """Notes in the run's folder that it rolls back from `error`, which is raised where the run may not."""
    if config.train.non_finite != "rollback" or folder is None:
        raise error
    noted = _read(folder)
    if len(noted) == MOST:
        raise NotFiniteError(f"{error} (rolled back {MOST} times, each to half the learning rate)", error.step)
    rate = config.optimizer.learning_rate * FACTOR ** (len(noted) + 1)
    if processes.is_writer():
        write_json(folder / FILE, [*noted, {"step": error.step, "cause": str(error), "learning_rate": rate}])
    logger.warning("%s: rolling back, and on with optimizer.learning_rate=%g", str(error).partition(":")[0], rate)


def _read(folder: Folder) -> list[dict[str, Any]]:
    return list(processes.agree(_read_here(folder) if processes.is_writer() else []))


def _read_here(folder: Folder) -> list[dict[str, Any]]:
    path = folder / FILE
    if not path.exists():
        return []
    try:
        noted = parse(read_text(path))
        if isinstance(noted, list):
            return noted
        raise ValueError
    except ValueError:
        raise AuxjaxError(f"{path} is no JSON: delete it to go on at the first learning rate") from None
