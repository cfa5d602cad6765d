"""train_members(): members that share a program train as one, each leaving what a run of its own would."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tqdm.auto
from ml_collections import ConfigDict

from auxjax import data, preemption, run
from auxjax.check import finalize
from auxjax.config import due
from auxjax.errors import NotFiniteError
from auxjax.population import outcome
from auxjax.population.execution import WAYS, Execution, check_execution, choose, way_of
from auxjax.population.members import Member
from auxjax.population.outcome import Outcome
from auxjax.population.plan import Group, plan
from auxjax.population.program import Compiled, compiled, evaluation_inputs
from auxjax.storage import local_place, write_text
from auxjax.train import train

_WAY = ".execution"


def train_members(
    configs: Sequence[Any],
    folders: Sequence[Path | None] | None = None,
    *,
    execution: str = "auto",
    only: Sequence[int] | None = None,
    progress: bool = True,
) -> list[Outcome]:
    """Trains what the configs describe and returns an Outcome for each, in their order.

    Members that differ in numbers alone share a program (`plan`). Each leaves a folder as `train` does, is skipped if
    it is done and resumed where it was begun; one that fails or diverges stops no other. `execution` is how a program
    serves its members: "scanned" one after another, in "threads" of a CPU, "vmapped" as one batch, over "devices", or
    "auto", which measures.
    `only` trains some of them, by position, in the programs that all of them make. Sets that are read from disk,
    diagnostics while training, a `train.non_finite` other than "stop", and several devices for one member are for runs
    of their own, which `train` does one by one. SIGTERM ends it with `Preempted`, as it does `train`, once the steps to
    the members' next stop are done and saved. Raises AuxjaxError for a config that could not run, before anything
    trains.
    """
    check_execution(execution)
    finished = [finalize(config) for config in configs]
    places = [None] * len(finished) if folders is None else [None if f is None else local_place(f) for f in folders]
    outcomes: dict[int, Outcome] = {}
    saves = any(place is not None for place in places)
    with preemption.watched() if saves else contextlib.nullcontext(preemption.never) as requested:
        for group in plan(finished):
            wanted = [i for i in range(len(group.members)) if only is None or group.members[i] in only]
            trained = _train_group(group, wanted, finished, places, execution, progress, requested)
            outcomes |= {group.members[i]: result for i, result in zip(wanted, trained, strict=True)}
    return [outcomes[index] for index in sorted(outcomes)]


def _train_group(
    group: Group, wanted: Sequence[int], configs: Sequence[ConfigDict], folders: Sequence[Path | None], execution: str,
    progress: bool, requested: Callable[[int], bool],
) -> list[Outcome]:  # fmt: skip
    """Returns the outcomes of those of a group's members, by their positions in it, that are wanted."""
    found = {i: _there(configs[group.members[i]], folders[group.members[i]]) for i in wanted}
    left = [i for i in wanted if found[i] is None]
    if left and _apart(group.config):
        found |= {i: _alone(configs[group.members[i]], folders[group.members[i]], progress) for i in left}
    elif left:
        shared = compiled(group)
        members = []
        for i in left:
            index = group.members[i]
            members.append(functools.partial(Member, group, shared, configs[index], group.own[i], folders[index]))
        places = [folder for folder in (folders[group.members[i]] for i in wanted) if folder is not None]
        way = _kept_way(places) if execution == "auto" else execution
        found |= zip(left, _run(shared, members, way, progress, len(wanted), places, requested), strict=True)
    return [result for result in (found[i] for i in wanted) if result is not None]


def _there(config: ConfigDict, folder: Path | None) -> Outcome | None:
    """Returns the Outcome that a folder already tells; raises AuxjaxError for a folder of another config."""
    if folder is None or not folder.exists():
        return None
    run.check_folder(config, folder)
    return outcome.read(folder)


def _apart(config: ConfigDict) -> bool:
    parallel = config.parallel
    return bool(
        config.data.cache != "device"
        or config.diagnostics.names
        or config.train.non_finite != "stop"
        or parallel.mode != "jit"
        or parallel.num_devices > 1
    )


def _alone(config: ConfigDict, folder: Path | None, progress: bool) -> Outcome:
    """Returns the Outcome of a run by `train`, which resumes what is there."""
    try:
        result = train(config, folder, progress=progress)
    except NotFiniteError as error:
        return outcome.broken(folder, "diverged", error, error.step, [])
    except Exception as error:
        return outcome.broken(folder, "failed", error, 0, [])
    return Outcome(folder, "done", None, result.evaluation, result.history)


def _kept_way(folders: Sequence[Path]) -> str:
    """Returns the way in which an interrupted group began, else "auto"."""
    files = (folder / _WAY for folder in folders)
    return next((name for name in (file.read_text() for file in files if file.exists()) if name in WAYS), "auto")


def _run(
    shared: Compiled, members: Sequence[Callable[[], Member]], execution: str, progress: bool, size: int,
    folders: Sequence[Path], requested: Callable[[int], bool],
) -> list[Outcome]:  # fmt: skip
    """Returns the outcomes of members that are made in turn, as many at a time as the way of execution takes.

    `size` counts those already finished too, and the way is kept in the folders, so that a group that was interrupted
    computes the same bits.
    """
    if execution == "auto":
        chosen = choose(shared, size, functools.partial(_trial, shared, members[0]))
    else:
        chosen = way_of(execution, shared, size)
    for folder in folders:
        with contextlib.suppress(OSError):  # of which the folder's own member will fail
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / _WAY, chosen.name)
    splits = {"train", "test", shared.eval_split}
    resident = {split: chosen.everywhere(data.arrays(shared.dataset, split)) for split in splits}
    results: list[Outcome] = []
    total = shared.total_steps * len(members)
    with tqdm.auto.tqdm(total=total, disable=None if progress else True, unit="step", dynamic_ncols=True) as bar:
        for start in range(0, len(members), chosen.width):
            if requested(0):
                raise preemption.Preempted(0)
            results += _wave(shared, chosen, members[start : start + chosen.width], resident, bar, requested)
    return results


def _wave(
    shared: Compiled, chosen: Execution, members: Sequence[Callable[[], Member]], resident: Mapping[str, Any], bar: Any,
    requested: Callable[[int], bool],
) -> list[Outcome]:  # fmt: skip
    """Returns the outcomes of members that train at the same time; a program that fails stops those it trained."""
    some = [make() for make in members]
    try:
        with contextlib.ExitStack() as stack:
            for member in some:
                stack.enter_context(member.opened())
            bar.update(sum(member.step for member in some))
            begun = [(member, member.step) for member in some if member.failed is None]  # advancing changes the step
            for step in sorted({at for _, at in begun}):
                level = [member for member, at in begun if at == step]
                try:
                    _advance(shared, chosen, level, resident, bar, requested)
                except Exception as error:
                    for member in level:
                        member.fail(error)
    except preemption.Preempted:
        for member in some:
            if member.failed is not None:
                _outcome(shared, member)
        raise
    return [_outcome(shared, member) for member in some]


def _outcome(shared: Compiled, member: Member) -> Outcome:
    """Returns what became of a member, which its folder tells from then on."""
    if member.diverged is not None:
        return outcome.broken(member.folder, "diverged", member.diverged, member.step + 1, member.history)
    if member.failed is None:
        assert member.scores is not None
        if member.folder is None:
            return Outcome(None, "done", None, member.scores, member.history)
        with member.alone():
            return outcome.finished(member.folder, shared.total_steps, member.scores, member.history)
    assert member.failed is not None
    return outcome.broken(member.folder, "failed", member.failed, member.step, member.history)


def _advance(
    shared: Compiled, chosen: Execution, members: Sequence[Member], resident: Mapping[str, Any], bar: Any,
    requested: Callable[[int], bool],
) -> None:  # fmt: skip
    """Takes members that are at the same step to the last one; one that diverges or fails is left where it was."""
    numbers, states = chosen.join([m.numbers for m in members]), chosen.join([m.state for m in members])
    step, total, every = members[0].step, shared.total_steps, shared.every

    def living() -> Iterator[tuple[int, Member]]:
        return ((i, member) for i, member in enumerate(members) if member.lives)

    def evaluate(split: str) -> None:
        sums = jax.device_get(chosen.evaluate(states, resident[split], *evaluation_inputs(shared, split)))
        for i, member in living():
            with member.alone():
                member.evaluated(split, jax.tree.map(lambda x, i=i: x[i], sums))

    while step < total and any(living()):
        count = shared.next_stop(step) - step
        index = chosen.join([member.positions(count, shared.longest) for member in members])
        start = time.perf_counter()
        states, metrics = chosen.stretch(numbers, states, resident["train"], index, np.int32(count))
        values = jax.device_get(metrics)
        seconds = time.perf_counter() - start
        for i, member in living():
            with member.alone():
                member.trained({name: series[i] for name, series in values.items()}, count, seconds)
        step += count
        bar.update(count * len(members))
        if due(step, every["eval"], total):
            evaluate(shared.eval_split)
        stopped = requested(step)
        if stopped or due(step, every["checkpoint"], total):
            for i, member in living():
                with member.alone():
                    member.save(chosen.part(states, i))
        if stopped:
            raise preemption.Preempted(step)
    if any(member.scores is None for _, member in living()) or shared.eval_split != "test":
        evaluate("test")


def _trial(shared: Compiled, make: Callable[[], Member], way: Execution, members: int, steps: int, times: int) -> float:
    """Returns the seconds of some steps of copies of one member, in memory: the fastest of so many, once compiled."""
    member = make()
    resident = way.everywhere(data.arrays(shared.dataset, "train"))
    index = way.join([member.positions(steps, shared.longest)] * members)
    numbers, seconds = way.join([member.numbers] * members), []
    for _ in range(times + 1):
        states = jax.block_until_ready(way.join([member.state] * members))
        start = time.perf_counter()
        jax.block_until_ready(way.stretch(numbers, states, resident, index, np.int32(steps)))
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
