"""The launcher as a user runs it: a process of its own, with a home folder and a PATH of the test's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENTRY = ["experiments/launch/tpu_vm.py"]

# A worker's program: says who it is, then does what the line of `plan` for its number says.
PROGRAM = """
import os, signal, sys, time
me = int(os.environ.get("JAX_PROCESS_ID", "0"))
print("worker", me, "of", os.environ.get("JAX_NUM_PROCESSES"), sys.argv[2:])
word, _, number = sys.argv[1].split(",")[me].partition(":")
if word == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if word in ("sleep", "deaf"):
    print("asleep")
    time.sleep(60)
time.sleep(0.2)
sys.exit(int(number or 0))
"""


def environment(home: Path, *path: Path, **more: str) -> dict[str, str]:
    """What the launcher sees: Python of the test first, then what `path` puts before the machine's programs."""
    folders = [*map(str, path), str(Path(sys.executable).parent), os.environ["PATH"]]
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL") if name in os.environ}
    return kept | {"HOME": str(home), "PATH": ":".join(folders)} | more


def launch(environment: dict[str, str], *arguments: str, code: int | None = 0, timeout: float = 60) -> str:
    """Runs the launcher, checks its exit code, and returns all that it printed."""
    command = [sys.executable, "-I", *ENTRY, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout
    )
    assert code is None or done.returncode == code, done.stdout
    assert "Traceback" not in done.stdout, done.stdout
    return done.stdout


def begin(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    """Starts the launcher without waiting for it; ^C reaches it even where the tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-I", *ENTRY, *arguments], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)


def wait_until(true: Callable[[], bool], seconds: float = 20) -> None:
    """Returns when `true()` is, and fails after so many seconds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process runs (one that waits to be reaped does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
