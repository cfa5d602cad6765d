"""All workers at once: start a job, see what each does, stop the rest when one fails."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from experiments.launch import commands
from experiments.launch.options import Launch, workers
from experiments.launch.shell import LaunchError, capture, each, last_line, say, show, stream

_PORT = 8476
_UNREACHABLE_LOOKS = 12  # a worker may be out of reach for a while, as while its host is repaired
_SHOWN_LINES = 20


class Status(NamedTuple):
    """What a worker does: running, exited, lost (its process is gone, and left no exit code), none, unsynced or
    unreachable; `code` belongs to exited, `detail` to unreachable."""

    state: str
    job: str = ""
    code: int = 0
    detail: str = ""

    def __str__(self) -> str:
        words = [self.state, *([str(self.code)] if self.state == "exited" else [])]
        return " ".join([*words, *([f"(job {self.job})"] if self.job else []), self.detail]).strip()

    @property
    def failed(self) -> bool:
        """Whether the others must be stopped: they would wait for this worker for ever."""
        return self.state in ("lost", "none", "unsynced") or (self.state == "exited" and self.code != 0)


def everywhere(launch: Launch, argv: Callable[[int], list[str]], doing: str) -> None:
    """Runs a command for every worker at once, their lines prefixed; raises LaunchError naming those that failed."""
    codes = each(lambda worker: stream(argv(worker), f"[{worker}] "), workers(launch))
    failed = {worker: code for worker, code in enumerate(codes) if code}
    if failed:
        which = ", ".join(f"{worker} (exit code {code})" for worker, code in failed.items())
        hint = ": `sync` copies the source there first" if 127 in failed.values() else ""
        raise LaunchError(f"{doing} failed on worker {which}{hint}")


def connect(launch: Launch) -> None:
    """Opens a first connection to each worker, worker 0 before the rest: gcloud makes and spreads the keys with it."""
    _connect(launch, 0)
    each(lambda worker: _connect(launch, worker + 1), workers(launch) - 1)


def start(launch: Launch) -> None:
    """Starts the job on all workers at once; where one does not start, none goes on."""
    port = _PORT if launch.hosts else _free_port()
    count = workers(launch)
    try:
        everywhere(
            launch,
            lambda worker: commands.start(launch, worker, commands.environment(launch, worker, count, port)),
            "starting the job",
        )
    except LaunchError:
        started = [status.state == "running" and status.job == launch.job for status in statuses(launch)]
        stop(launch, [worker for worker, ours in enumerate(started) if ours])
        raise


def statuses(launch: Launch, shown: bool = False) -> list[Status]:
    """Returns what each worker does, asked all at once; polls print their command only where `shown`."""

    def ask(worker: int) -> Status:
        argv = commands.on_worker(launch, worker, "status")
        if shown:
            show(argv)
        done = capture(argv)
        return read_status(done.code, done.out, done.error)

    return each(ask, workers(launch))


def read_status(code: int, out: str, error: str) -> Status:
    """Returns what the worker's script printed as a Status; without its line, what the connection says."""
    match = re.search(r"^job (\S+) (none|running|lost|exited (\d+))$", out, re.MULTILINE)
    if match:
        return Status(match[2].partition(" ")[0], match[1].strip("-"), int(match[3] or 0))
    if code == 127 or "worker.sh: No such file" in error:
        return Status("unsynced")
    return Status("unreachable", detail=last_line(error or out))


def watch(launch: Launch) -> list[Status]:
    """Returns the workers' last states when all have ended; stops the others as soon as one fails."""
    before: list[Status] = []
    silent = [0] * workers(launch)
    while True:
        found = statuses(launch, shown=not before)
        for worker, status in enumerate(found):
            silent[worker] = silent[worker] + 1 if status.state == "unreachable" else 0
            if not before or status != before[worker]:
                say(f"[{worker}] {status}")
        out_of_reach = [count >= _UNREACHABLE_LOOKS for count in silent]
        if any(status.failed for status in found) or any(out_of_reach):
            return _stop_the_rest(launch, found)
        if all(status.state == "exited" for status in found):
            return found
        before = found
        time.sleep(launch.poll_seconds)


def stop(launch: Launch, which: list[int]) -> list[int]:
    """Stops the job on some workers at once and returns the exit codes of doing so."""
    return each(lambda i: stream(commands.stop(launch, which[i]), f"[{which[i]}] "), len(which))


def show_log_end(launch: Launch, worker: int) -> None:
    """Prints the last lines of a worker's log."""
    lines = capture(commands.on_worker(launch, worker, "log")).out.splitlines()[-_SHOWN_LINES:]
    for line in lines:
        say(f"[{worker}] {line}")


def _stop_the_rest(launch: Launch, found: list[Status]) -> list[Status]:
    rest = [worker for worker, status in enumerate(found) if status.state in ("running", "unreachable")]
    if rest:
        say(f"stopping worker {', '.join(map(str, rest))}: the others cannot go on without all of them")
        stop(launch, rest)
    for worker in [worker for worker, status in enumerate(found) if status.failed][:1]:
        show_log_end(launch, worker)
    return found


def _connect(launch: Launch, worker: int, tries: int = 5) -> None:
    argv = commands.remote(launch, worker, "true")
    show(argv)
    for attempt in range(tries):
        done = capture(argv)
        if done.code == 0:
            return
        if attempt < tries - 1:
            time.sleep(launch.poll_seconds)
    raise LaunchError(f"worker {worker} cannot be reached: {last_line(done.error or done.out)}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
