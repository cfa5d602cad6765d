"""Starts a program as several processes on loopback, and waits for them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[2]
PROGRAM = "tests/processes/program.py"


class Ended(NamedTuple):
    """One process's exit code, what it printed, and when it ended, in seconds since the last of them was started."""

    code: int
    text: str
    seconds: float


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def environment(devices: int, **more: str) -> dict[str, str]:
    """The test's own environment, with so many devices a process."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return kept | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"} | more


def launch(
    count: int,
    devices: int,
    arguments: list[str],
    folder: Path,
    only: int | None = None,
    timeout: float = 240,
    **more: str,
) -> list[Ended]:
    """Runs `python arguments` as processes 0 to count - 1 (the first `only` of them), and returns how each ended."""
    address = f"127.0.0.1:{free_port()}"
    started = []
    for index in range(count if only is None else only):
        several = {
            "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(index)
        } if count > 1 else {}  # fmt: skip
        command = [sys.executable, *arguments]
        with (folder / f"log_{index}").open("w") as log:
            started.append(
                subprocess.Popen(command, cwd=ROOT, env=environment(devices, **several, **more), stdout=log, stderr=log)
            )
    return _wait(started, folder, timeout)


def train(
    count: int,
    devices: int,
    runs: list[dict[str, Any]],
    data_dir: str,
    folder: Path,
    die: tuple[int, int, str] | None = None,
) -> list[Ended]:
    """Trains what `runs` says as several processes; `outcome` then reads what a run left."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = {"data_dir": data_dir, "runs": runs, "results": str(folder / "result")}
    (folder / "plan.json").write_text(json.dumps(plan | ({"die": die} if die else {})))
    return launch(count, devices, [PROGRAM, str(folder / "plan.json")], folder)


def outcome(folder: Path, run: int, process: int = 0) -> dict[str, np.ndarray]:
    """The arrays that a run left in a process: its whole state by path, `losses` and `accuracy`."""
    with np.load(folder / f"result_{run}_process_{process}.npz") as file:
        return dict(file)


def _wait(started: list[subprocess.Popen[bytes]], folder: Path, timeout: float) -> list[Ended]:
    begun, ends = time.monotonic(), [0.0] * len(started)
    while any(process.poll() is None for process in started) and time.monotonic() - begun < timeout:
        for index, process in enumerate(started):
            if process.poll() is not None and not ends[index]:
                ends[index] = time.monotonic() - begun
        # One that is stopped stands for a lost host, which never ends.
        if all(process.poll() is not None or _is_stopped(process.pid) for process in started):
            for process in started:
                process.kill()
        time.sleep(0.05)
    late = [index for index, process in enumerate(started) if process.poll() is None]
    for index in late:
        started[index].kill()
        started[index].wait()
    texts = [(folder / f"log_{index}").read_text() for index in range(len(started))]
    assert not late, f"processes {late} did not end within {timeout} s:\n" + "\n".join(texts)
    seconds = [end or time.monotonic() - begun for end in ends]
    return [Ended(p.returncode, text, s) for p, text, s in zip(started, texts, seconds, strict=True)]


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
