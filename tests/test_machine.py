"""What a process may use: the least of what the machine, its container and whoever started it allow."""

from __future__ import annotations

import os

import pytest

from auxjax import machine


def test_memory_is_no_more_than_a_containers() -> None:
    meminfo = "MemTotal:       16000000 kB\nMemFree:  1 kB\nMemAvailable:    8000000 kB\n"
    assert machine.memory_of(meminfo, "max\n", "5000000\n") == (16e6 * 1024, 8e6 * 1024)
    assert machine.memory_of(meminfo, "", "") == (16e6 * 1024, 8e6 * 1024)
    assert machine.memory_of(meminfo, "4000000000\n", "1000000000\n") == (4e9, 3e9)


@pytest.mark.parametrize(
    ("quota", "asked", "usable"),
    [
        ("max 100000\n", "1", 1), ("", "0", 1), ("", "2,4", 2), ("", "1000", 6), ("", "many", 6), ("", "", 6),
        ("250000 100000\n", "", 3), ("50000 100000\n", "", 1), ("800000 100000\n", "", 6), ("400000 100000\n", "2", 2),
    ],
)  # fmt: skip
def test_processors_are_no_more_than_a_containers_and_than_was_asked_for(quota: str, asked: str, usable: int) -> None:
    assert machine.processors_of(6, quota, asked) == usable


def test_processors_are_those_of_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert machine.processors() == 1
    finally:
        os.sched_setaffinity(0, before)
