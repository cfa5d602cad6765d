"""What of a machine this process may use: processors and memory. Nothing but the standard library is needed."""

from __future__ import annotations

import os
import re
from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")


def processors() -> int:
    """Returns how many processors there are for this process.

    No more than its affinity and its container's quota allow, nor than OMP_NUM_THREADS, which Ray sets.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return processors_of(allowed, _read(_GROUP / "cpu.max"), os.environ.get("OMP_NUM_THREADS", ""))


def processors_of(allowed: int, quota: str, asked: str) -> int:
    """Returns the least of what the affinity, the text of cpu.max and OMP_NUM_THREADS say, at least one."""
    time = re.match(r"(\d+) (\d+)", quota)
    threads = re.match(r"\d+", asked)
    most = -(-int(time[1]) // int(time[2])) if time else allowed
    return max(min(allowed, most, int(threads[0]) if threads else allowed), 1)


def memory() -> tuple[float, float] | None:
    """Returns (total, available) bytes, no more than a container may take; None where Linux's file is missing."""
    meminfo, group = _read(Path("/proc/meminfo")), [_read(_GROUP / f"memory.{name}") for name in ("max", "current")]
    return memory_of(meminfo, *group) if meminfo else None


def memory_of(meminfo: str, limit: str, taken: str) -> tuple[float, float]:
    """Returns the same from the text of /proc/meminfo and of a container's memory.max and memory.current."""
    sizes = {name: float(size) * 1024 for name, size in re.findall(r"^(\w+):\s+(\d+) kB", meminfo, re.MULTILINE)}
    most = float(limit) if limit.strip().isdigit() else float("inf")
    left = max(most - float(taken or 0), 0.0)
    return min(sizes["MemTotal"], most), min(sizes["MemAvailable"], left)


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""
