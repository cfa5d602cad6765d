"""The supervisor as a user runs it: on commands that end in every way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch.launcher import ROOT, is_alive, wait_until

# Counts its starts in a file, says who it is, and ends as the words for that start say, one for each process.
PROGRAM = """
import os, pathlib, signal, sys, time
folder, me = pathlib.Path(sys.argv[1]), int(os.environ.get("JAX_PROCESS_ID", "0"))
mine = folder / f"starts_{me}"
starts = int(mine.read_text()) if mine.exists() else 0
mine.write_text(str(starts + 1))
assert os.environ["AUXJAX_SUPERVISED"]
print("process", me, os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_COORDINATOR_ADDRESS"), flush=True)
word = sys.argv[2 + starts].split(",")[me]
if word == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(75))
    (folder / "waits").touch()
    time.sleep(60)
if word == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if word == "stuck":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / f"pid_{me}").write_text(str(os.getpid()))
    time.sleep(60)
sys.exit(int(word))
"""


def supervise(folder: Path, *words: str, flags: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    program = [sys.executable, "-c", PROGRAM, str(folder), *words]
    return subprocess.Popen(
        [sys.executable, "experiments/supervise.py", *flags, "--", *program],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    printed = process.communicate(timeout=60)[0]
    assert "Traceback" not in printed, printed
    return process.returncode, printed


def starts(folder: Path, process: int = 0) -> int:
    return int((folder / f"starts_{process}").read_text())


def test_it_starts_again_after_every_end_but_a_good_one(tmp_path: Path) -> None:
    begun = time.monotonic()
    code, printed = ended(supervise(tmp_path, "1", "killed", "0"))
    assert code == 0 and starts(tmp_path) == 3
    assert "exit code 1; again in 1 s, 100 restarts left" in printed
    assert "exit code 137; again in 2 s, 99 restarts left" in printed
    assert time.monotonic() - begun > 3


def test_a_mistake_is_made_once(tmp_path: Path) -> None:
    assert ended(supervise(tmp_path, "2", "0"))[0] == 2 and starts(tmp_path) == 1
    code, printed = ended(subprocess.Popen(
        [sys.executable, "experiments/supervise.py", "--", "no_such_command"],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ))  # fmt: skip
    assert code == 2 and printed == "supervise: no_such_command: No such file or directory\n"


def test_it_gives_up(tmp_path: Path) -> None:
    code, printed = ended(supervise(tmp_path, "5", "6", flags=("--restarts=1",)))
    assert code == 6 and starts(tmp_path) == 2
    assert printed.endswith("supervise: exit code 6; no restart is left\n")


def test_a_preempted_run_goes_on_at_once_where_the_machine_stays(tmp_path: Path) -> None:
    assert ended(supervise(tmp_path, "75", "0"))[0] == 0 and starts(tmp_path) == 2


def test_all_processes_of_a_group_that_lost_one_start_again(tmp_path: Path) -> None:
    begun = time.monotonic()
    code, printed = ended(supervise(tmp_path, "stuck,killed", "0,0", flags=("--processes=2",)))
    assert code == 0 and [starts(tmp_path, process) for process in (0, 1)] == [2, 2]
    assert time.monotonic() - begun < 20
    addresses = {line.split()[-1] for line in printed.splitlines() if line.startswith("process")}
    assert "process 1 2 127.0.0.1:" in printed and len(addresses) == 2  # a port of its own for each start


def test_the_command_does_not_outlive_the_supervisor(tmp_path: Path) -> None:
    process = supervise(tmp_path, "stuck", "0")
    wait_until((tmp_path / "pid_0").exists)
    process.kill()
    process.communicate(timeout=20)
    wait_until(lambda: not is_alive(int((tmp_path / "pid_0").read_text())))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_handed_on_and_nothing_starts_again(number: signal.Signals, tmp_path: Path) -> None:
    process = supervise(tmp_path, "wait", "0")
    wait_until((tmp_path / "waits").exists)
    os.kill(process.pid, number)
    assert ended(process)[0] == 0 and starts(tmp_path) == 1
