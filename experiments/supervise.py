"""Runs a command until it ends well, starting it again after every other end.

    python experiments/supervise.py -- python experiments/train.py --config=configs/demo.py --workdir=runs/demo_run
    python experiments/supervise.py --processes=2 -- python experiments/train.py ...   # of CPUs: accelerators want one

Exit code 0 ends it, and so does 2, a mistake in the command, which would only be made again. After any other end (a
kill, a lost peer, a preempted run, a full disk) all the processes here are stopped and, after 1, 2, 4 seconds and so on
up to 30, started again; a run longer than ten minutes begins again at 1. Where each of several hosts has a supervisor,
one lost process ends those of the other hosts, and they try for it again until it is back. SIGTERM and Ctrl-C are
handed on to the command, which has a minute to end and is not started again.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

LONGEST_WAIT, LONG_RUN, GRACE = 30, 600, 60  # seconds
MISTAKE, TRY_AGAIN = 2, 75
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def main(arguments: Sequence[str]) -> int:
    """Runs the command until it ends well; returns the exit code."""
    options = _parse(arguments)
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: asked.append(number))
    wait = 1
    for left in range(options.restarts, -1, -1):
        begun = time.monotonic()
        code = _run(options.command, options.processes, asked)
        if asked and code == TRY_AGAIN:
            return 0
        if asked or code in (0, MISTAKE):
            return code
        wait = 1 if time.monotonic() - begun > LONG_RUN else wait
        _say(f"exit code {code}; " + (f"again in {wait} s, {left} restarts left" if left else "no restart is left"))
        if not left or _asked_within(wait, asked):
            break
        wait = min(2 * wait, LONGEST_WAIT)
    return code


def _asked_within(seconds: float, asked: Sequence[int]) -> bool:
    end = time.monotonic() + seconds
    while not asked and time.monotonic() < end:
        time.sleep(0.1)
    return bool(asked)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="supervise.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--processes", type=int, default=1, help="how many processes to start on this machine")
    parser.add_argument("--restarts", type=int, default=100, help="how often to start again at most")
    parser.add_argument("command", nargs="+", help="what to run, after --")
    options = parser.parse_args(arguments)
    if options.processes < 1 or options.restarts < 0:
        parser.error("--processes must be 1 or more, and --restarts 0 or more")
    return options


def _run(command: Sequence[str], count: int, asked: Sequence[int]) -> int:
    """Returns the exit code of one start of all processes: 0, or that of one that did not end well, as shells say it.

    They have a session of their own, so that Ctrl-C in a terminal, and a signal to a whole group, reach them once.
    """
    children: list[subprocess.Popen[bytes]] = []
    told = False
    deadline = float("inf")
    try:
        for environment in environments(count):
            children.append(subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=_die_with))
        while time.monotonic() < deadline:
            codes = [child.poll() for child in children]
            bad = [code for code in codes if code not in (None, 0, TRY_AGAIN)]
            # What is left of a group that lost a process cannot save: it waits for the lost one.
            if bad or None not in codes:
                code = MISTAKE if MISTAKE in bad else next((code for code in (*bad, *codes) if code), 0)
                return code if code >= 0 else 128 - code
            if asked and not told:
                told = True
                for child in children:
                    child.send_signal(asked[0])
            if told or any(code is not None for code in codes):
                deadline = min(deadline, time.monotonic() + GRACE)
            time.sleep(0.1)
        return 128 + signal.SIGKILL
    except OSError as error:
        _say(f"{shlex.join(command)}: {error.strerror}")
        return MISTAKE
    finally:
        for child in children:
            child.kill()
            child.wait()


def _die_with() -> None:
    """Has Linux kill this process when the supervisor dies: what is left of a killed one must hold no accelerator."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def environments(count: int) -> list[dict[str, str]]:
    """Returns the environment of each process: as it is for one, else with what joins them on this machine."""
    common = {**os.environ, "AUXJAX_SUPERVISED": "1"}
    if count == 1:
        return [common]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(count)}
    return [{**common, "JAX_PROCESS_ID": str(number)} for number in range(count)]


def _say(text: str) -> None:
    print(f"supervise: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
