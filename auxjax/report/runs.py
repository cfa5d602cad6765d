"""Runs from disk: folders found, read as far as they can be, and marked where they are damaged or unfinished."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from auxjax import config as configs
from auxjax.errors import AuxjaxError
from auxjax.untrusted import parse

DONE, DIVERGED, FAILED, UNFINISHED, DAMAGED = "done", "diverged", "failed", "unfinished", "damaged"


class Run(NamedTuple):
    """One run as its folder tells of it.

    `status` is one of done, diverged (a FAILED file that says so), failed (any other FAILED file), unfinished (neither
    DONE nor FAILED) and damaged (its config or its metrics cannot be read); `problem` says why in one line and is empty
    for a run that is done and whole. `config` is empty where it could not be read. `evaluation` is what DONE holds of
    the test split.
    """

    name: str
    folder: Path
    status: str
    problem: str
    config: dict[str, Any]
    overrides: dict[str, Any]
    dataset: dict[str, Any]
    history: list[dict[str, Any]]
    evaluation: dict[str, float]
    diagnostics: list[dict[str, Any]]

    @property
    def seed(self) -> int:
        """The seed; -1 where the config could not be read."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else -1

    @property
    def last_step(self) -> int:
        """The last recorded step; 0 where none is."""
        return max((int(record["step"]) for record in self.history), default=0)

    @property
    def splits(self) -> set[str]:
        """The splits that were recorded."""
        return {str(record["split"]) for record in self.history}


def read_runs(paths: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """Returns every run in `paths`, each once: folders of runs, and folders that hold such folders at any depth.

    A folder with config.json or metrics.jsonl is a run. Raises AuxjaxError for a path that is not there and where no
    path holds a run; what is wrong inside a run is told by its status and problem.
    """
    folders: dict[Path, str] = {}
    for given in paths:
        root = Path(given).expanduser()
        if not root.is_dir():
            raise AuxjaxError(f"no folder {str(root)!r}; give folders of runs, or folders that hold them")
        for folder in _find(root.resolve()):
            inside = folder.relative_to(root.resolve())
            folders.setdefault(folder, str(inside.relative_to("runs") if inside.parts[:1] == ("runs",) else inside))
    if not folders:
        raise AuxjaxError(f"no run in {', '.join(map(str, paths))}: no folder there holds config.json or metrics.jsonl")
    names = [name if name != "." else folder.name for folder, name in folders.items()]
    unique = [
        str(folder) if names.count(name) > 1 else name for folder, name in zip(folders, names, strict=True)
    ]  # fmt: skip
    return [_read(folder, name) for folder, name in zip(folders, unique, strict=True)]


def read_ablation(paths: Sequence[str | os.PathLike[str]]) -> dict[str, Any]:
    """Returns the first ablation.json in `paths` or their parents; an empty dict where none can be read."""
    for given in paths:
        root = Path(given).expanduser().resolve()
        for folder in (root, *root.parents[:2]):
            loaded, problem = _object(folder / "ablation.json")
            if loaded and not problem:
                return loaded
    return {}


def _find(root: Path) -> Iterator[Path]:
    if (root / "config.json").exists() or (root / "metrics.jsonl").exists():
        yield root
        return
    for entry in sorted(root.iterdir()):
        # A report's own folder and what a checkpoint or a writer keeps hold no runs.
        if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith("."):
            yield from _find(entry)


def _read(folder: Path, name: str) -> Run:
    config, config_problem = _config(folder / "config.json")
    history, history_problem = _lines(folder / "metrics.jsonl", needs=("step", "split"))
    diagnostics, diagnostics_problem = _lines(folder / "diagnostics.jsonl", needs=("step", "diagnostic"))
    overrides, _ = _object(folder / "overrides.json")
    dataset, _ = _object(folder / "dataset.json")
    done, done_problem = _object(folder / "DONE")
    status, problem = _status(folder, done, history, config)
    damages = [text for text in (config_problem, history_problem, diagnostics_problem, done_problem) if text]
    if damages:
        ended = status in (DIVERGED, FAILED)
        status = status if ended else DAMAGED
        problem = "; ".join([problem, *damages] if ended else damages)
    return Run(
        name=name, folder=folder, status=status, problem=problem, config=config, overrides=overrides, dataset=dataset,
        history=history, evaluation=_numbers(done), diagnostics=diagnostics,
    )  # fmt: skip


def _status(
    folder: Path, done: Mapping[str, Any], history: Sequence[Mapping[str, Any]], config: Mapping[str, Any]
) -> tuple[str, str]:
    """Returns the status and the problem of a run whose files can be read."""
    last = max((record["step"] for record in history), default=0)
    if (folder / "FAILED").exists():
        failed, _ = _object(folder / "FAILED")
        step = failed.get("step", last)
        status = DIVERGED if failed.get("status") == DIVERGED else FAILED
        return status, f"{status} at step {step}: {failed.get('error', 'no reason recorded')}"
    if done:
        return DONE, ""
    total = config.get("train", {}).get("total_steps", 0) if isinstance(config.get("train"), dict) else 0
    return UNFINISHED, f"unfinished at step {last}" + (f" of {total}" if total else "")


def _object(path: Path, required: bool = False) -> tuple[dict[str, Any], str]:
    """Returns a file's JSON object and what is wrong with it, an empty one and a line where something is."""
    if not path.exists():
        return {}, f"there is no {path.name}" if required else ""
    try:
        loaded = parse(path.read_text())
    except (OSError, ValueError):
        return {}, f"{path.name} is no JSON"
    if not isinstance(loaded, dict):
        return {}, f"{path.name} is no JSON object"
    return {str(key): value for key, value in loaded.items()}, ""


def _config(path: Path) -> tuple[dict[str, Any], str]:
    """Returns a config and what is wrong with it; all that tells arms apart reads its sections as objects."""
    config, problem = _object(path, required=True)
    sections = {name: config.get(name, {}) for name in ("data", "heads", "weighting")}
    if isinstance(sections["heads"], dict):
        sections |= {f"heads.{name}": head for name, head in sections["heads"].items()}
    odd = [name for name, section in sections.items() if not isinstance(section, dict)]
    return ({}, f"config.json: {odd[0]} is no object") if odd else (config, problem)


def _lines(path: Path, needs: tuple[str, ...]) -> tuple[list[dict[str, Any]], str]:
    """Returns the records that can be read, and the first that cannot; a last line cut short is no damage."""
    if not path.exists():
        return [], ""
    records, bad = [], []
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        return [], f"{path.name} cannot be read: {error.strerror}"
    for number, line in enumerate(lines, start=1):
        try:
            record = parse(line)
            if not isinstance(record, dict) or not all(key in record for key in needs):
                raise ValueError
            record["step"] = int(record["step"])
            records.append(record)
        except (ValueError, TypeError):
            if number < len(lines):
                bad.append(number)
    return records, f"{path.name}: {len(bad)} unreadable lines, the first is line {bad[0]}" if bad else ""


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if isinstance(value, int | float)}


def resolved(run: Run) -> dict[str, Any]:
    """Returns the run's whole config, lists as the tuples they were.

    A key that a run of an older version lacks has its default, so that it stays in the arm of newer runs.
    """
    return _completed(configs.plain(configs.base()), dict(configs.tuples(run.config)))


def flat(run: Run) -> dict[str, Any]:
    """Returns the run's whole config by dotted keys."""
    return configs.flatten(resolved(run))


def _completed(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a section with the defaults of what it lacks; one whose keys belong to what it names has none."""
    both = [key for key in given if isinstance(base.get(key), dict) and isinstance(given[key], dict)]
    return {**base, **given, **{key: _completed(base[key], given[key]) for key in both if key not in configs.OPEN}}
