"""How a run that was interrupted differs from one that nobody touched: its parameters and its records."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from auxjax import checkpoint, load_attached, metrics
from auxjax.errors import AuxjaxError


def compare(folder: Path, expected: Path, *, whole: bool) -> str:
    """Returns how a run differs from the untouched one at its newest whole checkpoint; "" where it does not."""
    try:
        step = checkpoint.find_step(folder)
    except AuxjaxError:
        return "it left no checkpoint" if whole else ""
    if digest(folder, step) != expected_digest(expected, step):
        return f"other parameters at step {step}"
    ours, theirs = records(folder), records(expected)
    if ours != theirs[: len(ours)]:
        return "other records in metrics.jsonl"
    if whole and (len(ours) < len(theirs) or (folder / "DONE").read_text() != (expected / "DONE").read_text()):
        return "records are missing"
    return ""


def digest(folder: Path, step: int) -> str:
    """Returns a hash of the parameters and statistics, with those of heads, of a checkpoint."""
    leaves = jax.tree.leaves(load_attached(folder, step)[2])
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()


@functools.cache
def expected_digest(folder: Path, step: int) -> str:
    """Returns the same, and remembers it."""
    return digest(folder, step)


def records(folder: Path) -> list[dict[str, Any]]:
    """Returns a run's records without their speed; a line cut short by a kill is left out."""
    found = metrics.read(folder / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key != "steps_per_second"} for record in found]


def last_step(folder: Path) -> int:
    """Returns the last step that a run recorded, 0 if none."""
    path = folder / "metrics.jsonl"
    return max((record["step"] for record in metrics.read(path)), default=0) if path.exists() else 0
