"""What became of a member: done, diverged or failed; on disk the files DONE and FAILED of its folder."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

from auxjax import metrics, run
from auxjax.errors import AuxjaxError
from auxjax.untrusted import read_json

Status = Literal["done", "diverged", "failed"]


class Outcome(NamedTuple):
    """What became of a member; `error` is one line, `evaluation` the scores on the test split of one that is done."""

    folder: Path | None
    status: Status
    error: str | None
    evaluation: dict[str, float]
    history: list[dict[str, Any]]


def finished(folder: Path, step: int, evaluation: dict[str, float], history: list[dict[str, Any]]) -> Outcome:
    """Marks a folder as done and returns its Outcome."""
    run.mark_done(folder, step, evaluation)
    return Outcome(folder, "done", None, evaluation, history)


def broken(
    folder: Path | None, status: Status, error: Exception | str, step: int, history: list[dict[str, Any]]
) -> Outcome:
    """Marks a folder, if there is one that can be written, as failed or diverged at `step`; returns its Outcome."""
    known = isinstance(error, str | AuxjaxError)
    text = " ".join((str(error) if known else f"{type(error).__name__}: {error}").split())
    if folder is not None and folder.exists():
        with contextlib.suppress(OSError):  # as of a full disk, which may be what it failed of
            run.mark_failed(folder, status, text, step)
    return Outcome(folder, status, text, {}, history)


def read(folder: Path) -> Outcome | None:
    """Returns the Outcome of a folder that is done or diverged, which a second run would not change; None else."""
    for name in ("DONE", "FAILED"):
        path = folder / name
        if path.exists():
            told = read_json(path, "delete it and train again")
            if name == "FAILED" and told.get("status") != "diverged":
                return None
            history = metrics.read(folder / "metrics.jsonl")
            if name == "DONE":
                return Outcome(folder, "done", None, {k: v for k, v in told.items() if k != "step"}, history)
            return Outcome(folder, "diverged", str(told.get("error", "it diverged")), {}, history)
    return None
