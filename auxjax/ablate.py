"""ablate(): grids over config keys -> a folder of runs, resumed where they stopped, with a table and a report."""

from __future__ import annotations

import contextlib
import copy
import logging
import shlex
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tqdm.auto
from ml_collections import ConfigDict

from auxjax import ablation_file, data, processes, report, run, workers
from auxjax import arms as arms_of
from auxjax import config as configs
from auxjax.arms import Arm
from auxjax.errors import AuxjaxError
from auxjax.population import Outcome, check_execution, outcome, plan
from auxjax.storage import local_folder
from auxjax.sweep import LEARNING_RATE
from auxjax.untrusted import read_json

logger = logging.getLogger("auxjax")

_LOOK_SECONDS = 1.0
_PLAIN_LINE_SECONDS = 30.0


class Member(NamedTuple):
    """One run: its arm's name, finished config and folder."""

    arm: str
    config: ConfigDict
    folder: Path


class Ablation(NamedTuple):
    """What an ablation leaves: its folder, arms, an Outcome by run name, the table's text and the report's path."""

    folder: Path
    arms: list[Arm]
    outcomes: dict[str, Outcome]
    table: str
    report: Path | None

    @property
    def failures(self) -> list[str]:
        """A line for each run that is not done: its name and why."""
        return [f"{name}: {o.status}: {o.error}" for name, o in self.outcomes.items() if o.status != "done"]

    @property
    def exit_code(self) -> int:
        """0 where every run is done, else 1."""
        return int(bool(self.failures))


def ablate(
    config: ConfigDict,
    combinations: Iterable[Mapping[str, Any]] = ({},),
    workdir: str | Path = "",
    *,
    seeds: Sequence[int] | None = None,
    learning_rates: Sequence[float] = (),
    command: str = "",
    only: int | None = None,
    collect: bool = False,
    on_ray: workers.Cluster | None = None,
    execution: str = "auto",
    progress: bool = True,
) -> Ablation:
    """Trains `config` under each combination of changes and with each seed, and returns the Ablation.

    Every combination is checked before the first starts. Runs that are done are skipped, those begun are resumed; a run
    that fails or diverges stops no other. In a folder with an ablation of the same config, new arms and seeds join
    those there. With several `learning_rates` every arm trains at each, and the report compares each at its own best on
    the validation split, a tenth of the training set where the config holds out none. `only` trains one group of runs
    that share a program (from 1) and writes no report; `collect` trains nothing; `execution` is `train_members`'s.
    Raises AuxjaxError for what cannot run, and for a folder of another config.
    """
    check_execution(execution)
    processes.alone("an ablation")
    config, combinations = tuned(config, combinations, learning_rates)
    arms = arms_of.make(config, combinations, seeds)
    folder = local_folder(workdir)
    members = [Member(a.name, c, folder / "runs" / r) for a in arms for c, r in zip(a.configs, a.runs, strict=True)]
    groups = _wanted(members, only)
    for member in members:
        _check_run(member)
    ablation_file.describe(folder, config, arms, command, LEARNING_RATE if len(learning_rates) > 1 else "")
    outcomes: dict[str, Outcome] = {}
    if not collect:
        outcomes = _train(groups, on_ray, execution, progress)
    if only is not None:
        return Ablation(folder, arms, outcomes, "", None)
    every = {m.folder.name: outcomes.get(m.folder.name) or read_outcome(m.folder) for m in members}
    return Ablation(folder, arms, every, *_report(folder))


def tuned(
    config: ConfigDict, combinations: Iterable[Mapping[str, Any]], learning_rates: Sequence[float]
) -> tuple[ConfigDict, list[Mapping[str, Any]]]:
    """Returns the config and the combinations at each learning rate.

    Several rates need a validation split to choose by, a tenth of the training set where there is none. Raises
    AuxjaxError where the combinations sweep the learning rate themselves.
    """
    given = list(combinations)
    if not learning_rates:
        return config, given
    if any(LEARNING_RATE in changes for changes in given):
        raise AuxjaxError(f"{LEARNING_RATE} is swept twice: give it as an axis, or several learning_rates, not both")
    if len(learning_rates) > 1 and not config.data.validation_examples:
        config = copy.deepcopy(config)
        config.data.validation_examples = len(data.load(config.data).splits["train"]) // 10
        logger.info("%d training examples are held out to choose learning rates", config.data.validation_examples)
    return config, [{**changes, LEARNING_RATE: rate} for changes in given for rate in learning_rates]


def commands(
    config: ConfigDict,
    combinations: Iterable[Mapping[str, Any]],
    seeds: Sequence[int] | None,
    arguments: Sequence[str],
    learning_rates: Sequence[float] = (),
) -> list[str]:
    """Returns a command for each group of runs that share a program, `arguments` with `--only=1` and so on.

    They may run anywhere and in any order, on one shared folder; `--collect` then makes table and report. A Slurm array
    takes line n: `sbatch --array=1-N --wrap='sed -n ${SLURM_ARRAY_TASK_ID}p commands.txt | bash'`.
    """
    made = [c for arm in arms_of.make(*tuned(config, combinations, learning_rates), seeds) for c in arm.configs]
    return [f"{shlex.join(arguments)} --only={n}" for n, _ in enumerate(plan(made), start=1)]


def _wanted(members: Sequence[Member], only: int | None) -> list[list[Member]]:
    """Returns the groups of members that share a program, or one of them, counted from 1."""
    groups = [[members[i] for i in group.members] for group in plan([m.config for m in members])]
    if only is None:
        return groups
    if not 1 <= only <= len(groups):
        raise AuxjaxError(f"--only={only}: there are groups 1 to {len(groups)}")
    return groups[only - 1 : only]


def read_outcome(folder: Path) -> Outcome:
    """Returns the Outcome that a run's folder tells; "failed" where it is not finished."""
    told = outcome.read(folder)
    if told is not None:
        return told
    error = "not finished: give the same command without --collect"
    if (folder / "FAILED").exists():
        error = str(read_json(folder / "FAILED", "delete it").get("error", "no reason recorded"))
    return Outcome(folder, "failed", error, {}, [])


def _train(
    groups: Sequence[Sequence[Member]], on_ray: workers.Cluster | None, execution: str, progress: bool
) -> dict[str, Outcome]:
    """Returns outcomes by run; a line for each that is not done, as soon as its group is."""
    tasks = [[(m.config, m.folder) for m in group] for group in groups]
    trained = workers.train_here(tasks, execution) if on_ray is None else workers.train_on_ray(tasks, execution, on_ray)
    outcomes: dict[str, Outcome] = {}
    with _bar([m for group in groups for m in group]) if progress else contextlib.nullcontext():
        for names, finished in trained:
            outcomes |= zip(names, finished, strict=True)
            for name, told in zip(names, finished, strict=True):
                if told.status != "done":
                    logger.warning("%s: %s: %s", name, told.status, told.error)
    return outcomes


@contextlib.contextmanager
def _bar(members: Sequence[Member]) -> Iterator[None]:
    """Shows how many runs are finished and the arm at work; a plain line now and then where that is no terminal.

    It looks at the folders, which tell the same here and on other machines, and while a group is one call.
    """
    ended = threading.Event()
    with tqdm.auto.tqdm(total=len(members), disable=None, unit="run", dynamic_ncols=True) as bar:

        def look() -> None:
            said = time.monotonic()
            while not ended.wait(_LOOK_SECONDS):
                bar.n, arm = sum(map(_is_finished, members)), _at_work(members)
                bar.set_description(arm)
                if bar.disable and time.monotonic() - said > _PLAIN_LINE_SECONDS:
                    said = time.monotonic()
                    logger.info("%d of %d runs finished; now %s", sum(map(_is_finished, members)), len(members), arm)

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            bar.n = sum(map(_is_finished, members))
            bar.refresh()


def _is_finished(member: Member) -> bool:
    return any((member.folder / name).exists() for name in ("DONE", "FAILED"))


def _at_work(members: Sequence[Member]) -> str:
    """Returns the arm of the unfinished run that wrote a record last."""
    files = {m.arm: m.folder / "metrics.jsonl" for m in members if not _is_finished(m)}
    times = {arm: file.stat().st_mtime for arm, file in files.items() if file.exists()}
    return max(times, key=lambda arm: times[arm], default="starting")


def _report(folder: Path) -> tuple[str, Path | None]:
    """Returns the table and the page's path; nothing, and a line, where there is nothing to report on yet."""
    try:
        written = report.write([folder], folder / "report")
    except AuxjaxError as error:
        logger.warning("no report: %s", error)
        return "", None
    return written.table, written.path


def _check_run(member: Member) -> None:
    """Raises AuxjaxError for a run's folder of another config; makes nothing."""
    if (member.folder / "config.json").exists():
        changed = configs.difference(run.read_config(member.folder), member.config)
        if changed:
            raise AuxjaxError(f"{member.folder} is of another config: {changed}; move it away, or give its own config")
