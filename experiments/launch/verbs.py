"""The verbs: each prints its commands and runs them, or only prints them, and returns an exit code."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from experiments.launch import commands, gcloud, slices, source
from experiments.launch import workers as on
from experiments.launch.options import Launch, value_of, where, workers
from experiments.launch.shell import LaunchError, say, show

ROOT = Path(__file__).resolve().parents[2]
TRY_AGAIN = 75  # what a run ends with that was told to go, or lost one of its processes


def plan(launch: Launch) -> int:
    """Prints what the flags stand for; what cannot work is an error before anything is paid for."""
    given = value_of(launch.command, "config.data.batch_size")
    batch_size = launch.batch_size or (int(given) if given.isdigit() else 0)
    if launch.type:
        size = slices.sizes(launch.type)
        runtime = launch.runtime or size.runtime
        say(f"{launch.type}: {_count(size.hosts, 'host')} of {size.chips_per_host} chips, {size.chips} chips in all")
        say(f"JAX devices: {size.devices // size.hosts} per host, {size.devices} in all")
        say(f"runtime version: {runtime}; {'spot, may be preempted' if launch.spot else 'on demand'}")
        if batch_size:
            say(slices.batch_line(batch_size, size.hosts, size.devices))
    else:
        say(f"{_count(workers(launch), 'process' if launch.processes else 'host')}; devices are counted by setup")
        if batch_size:
            say(slices.batch_line(batch_size, workers(launch), workers(launch)).partition(", ")[0])
    if workers(launch) > 1 and not value_of(launch.command, "workdir"):
        say(f"the {workers(launch)} workers need one workdir that all reach, as --workdir=gs://BUCKET/RUN")
    return 0


def create(launch: Launch) -> int:
    """Requests the slice and waits; hosts and processes of one's own only have to answer."""
    if launch.type:
        describing = [commands.describe_request(launch), commands.describe_node(launch)]
        if _only_printed(launch, [describing[0], commands.create(launch), *describing]):
            return 0
        gcloud.create(launch)
        return _next(launch, "sync", "setup", "delete")
    if not _only_printed(launch, _connecting(launch)):
        on.connect(launch)
        say(f"all {_count(workers(launch), 'worker')} answer")
    return 0


def setup(launch: Launch) -> int:
    """Installs Python and the package on all workers, then counts their devices."""
    installing = [commands.setup(launch, worker) for worker in range(workers(launch))]
    counting = [commands.check(launch, worker) for worker in range(workers(launch))]
    if not _only_printed(launch, _asking(launch) + installing + counting):
        _refuse_while_running(launch)
        on.everywhere(launch, lambda worker: installing[worker], "setup")
        on.everywhere(launch, lambda worker: counting[worker], "counting devices")
    return 0


def sync(launch: Launch, pack: bool = True) -> int:
    """Copies the checkout to all workers; without `pack`, as it was packed before."""
    archive = Path.home() / ".cache" / "auxjax" / "launch" / f"{launch.name}.tar.gz"
    copying = [commands.copy(launch, worker, str(archive)) for worker in range(workers(launch))]
    unpacking = [
        commands.remote(launch, worker, commands.unpack(launch, worker)) for worker in range(workers(launch))
    ]
    if not _only_printed(launch, _connecting(launch) + _asking(launch) + copying + unpacking):
        on.connect(launch)
        _refuse_while_running(launch)
        if pack:
            source.pack(ROOT, archive)
        on.everywhere(launch, lambda worker: copying[worker], "copying")
        on.everywhere(launch, lambda worker: unpacking[worker], "unpacking")
    return 0


def run(launch: Launch) -> int:
    """Starts the command on all workers and waits for it; with no command, waits for the job that is there."""
    count = workers(launch)
    starting = [
        commands.start(launch, worker, commands.environment(launch, worker, count, 8476)) for worker in range(count)
    ]
    if _only_printed(launch, [*(starting if launch.command else []), *_asking(launch)]):
        return 0
    if launch.command:
        on.start(launch)
        _next(launch, "logs", "status", "stop")
        say("Ctrl-C leaves the job running; `run` without a command waits for it again")
    return _result(on.watch(launch))


def logs(launch: Launch) -> int:
    """Prints one worker's log, with --follow until its job ends."""
    argv = commands.on_worker(launch, launch.worker, "log", *(["follow"] if launch.follow else []))
    show(argv)
    return 0 if launch.print else subprocess.call(argv, stdin=subprocess.DEVNULL)


def status(launch: Launch) -> int:
    """Prints what each worker does; the exit code is 1 where one failed or cannot be reached."""
    if _only_printed(launch, [*([commands.describe_request(launch)] if launch.type else []), *_asking(launch)]):
        return 0
    if launch.type:
        say(f"request {launch.name}: {gcloud.request_state(launch, shown=True) or 'gone'}")
    found = on.statuses(launch, shown=True)
    for worker, state in enumerate(found):
        say(f"[{worker}] {state}")
    return int(any(state.failed or state.state == "unreachable" for state in found))


def stop(launch: Launch) -> int:
    """Stops the job on all workers; on a TPU, whatever holds the chips."""
    stopping = [commands.stop(launch, worker) for worker in range(workers(launch))]
    if _only_printed(launch, stopping):
        return 0
    return int(any(on.stop(launch, [*range(workers(launch))])))


def delete(launch: Launch) -> int:
    """Deletes the slice and its request; hosts and processes of one's own have nothing to delete."""
    if not launch.type:
        say(f"nothing to delete: the hosts are yours; what `sync` copied is in {launch.folder}/{launch.name}")
        return 0
    if not _only_printed(launch, [commands.describe_request(launch), commands.delete(launch)]):
        gcloud.delete(launch)
    return 0


def up(launch: Launch) -> int:
    """Creates, syncs, sets up and runs, and all of it again while the slice is preempted; returns the job's code."""
    if launch.print:
        for verb in (create, sync, setup, run, *([delete] if launch.autodelete else [])):
            verb(launch)
        return 0
    try:
        code = _until_done(launch)
    except KeyboardInterrupt:
        _next(launch, "run", "stop", "delete")
        raise
    except LaunchError:
        _clean_up(launch)
        raise
    _clean_up(launch)
    return code


VERBS: dict[str, Callable[[Launch], int]] = {
    "plan": plan, "create": create, "setup": setup, "sync": sync, "run": run, "logs": logs, "status": status,
    "stop": stop, "delete": delete, "up": up,
}  # fmt: skip


def _until_done(launch: Launch) -> int:
    for attempt in range(launch.retries + 1):
        code = _once(launch, first=attempt == 0)
        if code is not None:
            return code
        say(f"preempted; retry {attempt + 1} of {launch.retries}" if attempt < launch.retries else "preempted")
        gcloud.delete(launch)
    return 1


def _once(launch: Launch, first: bool) -> int | None:
    """Returns the job's exit code, None where the slice was taken away before it ended."""
    try:
        create(launch)
        sync(launch, pack=first)  # what is edited here meanwhile is not for a run that goes on
        setup(launch)
        code = run(launch)
        # Where a run says that it was told to go, the slice's state may still have to follow.
        if code == 0 or not launch.type or not (code == TRY_AGAIN or gcloud.is_preempted(launch)):
            return code
    except LaunchError:
        if not launch.type or not gcloud.is_preempted(launch):
            raise
    return None


def _clean_up(launch: Launch) -> None:
    if launch.type and launch.autodelete:
        delete(launch)
    elif launch.type:
        say("the slice is still there, and costs")
        _next(launch, "delete")


def _result(found: list[on.Status]) -> int:
    """Prints how a job ended and returns its exit code: that of the first worker that failed."""
    failed = {worker: state for worker, state in enumerate(found) if state.failed or state.state == "unreachable"}
    if not failed:
        say("all workers ended with exit code 0")
        return 0
    say("failed: " + ", ".join(f"worker {worker} {state}" for worker, state in failed.items()))
    return next((state.code for state in failed.values() if state.code), 1)


def _refuse_while_running(launch: Launch) -> None:
    busy = [worker for worker, state in enumerate(on.statuses(launch, shown=True)) if state.state == "running"]
    if busy:
        raise LaunchError(f"a job runs on worker {', '.join(map(str, busy))}: stop it first, or give another --name")


def _connecting(launch: Launch) -> list[list[str]]:
    return [commands.remote(launch, worker, "true") for worker in range(workers(launch))]


def _asking(launch: Launch) -> list[list[str]]:
    return [commands.on_worker(launch, worker, "status") for worker in range(workers(launch))]


def _only_printed(launch: Launch, argvs: list[list[str]]) -> bool:
    """Prints the commands where that is all that is asked for."""
    if launch.print:
        for argv in argvs:
            show(argv)
    return launch.print


def _next(launch: Launch, *verbs: str) -> int:
    """Prints the commands that follow, to be pasted."""
    for verb in verbs:
        more = ["--worker=0", "--follow"] if verb == "logs" else []
        say(f"{verb}: {commands.again([verb, *where(launch), *more])}")
    return 0


def _count(number: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number} {noun if number == 1 else plural}"
