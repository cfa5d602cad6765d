"""Ratios of speeds, taken side by side: interleaved rounds, medians and quartiles, on the wall and the CPU clock."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Clocks = tuple[float, float]


class Ratio(NamedTuple):
    """The median over rounds of one candidate's time over the reference's, and the quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratios(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, tuple[Ratio, Ratio]]:
    """Returns for each candidate but the last its wall and CPU time over the last one's, the reference.

    A candidate does one unit of work and waits for it. Each is run once before the clock starts, then all are run in
    turn, every round starting with another one; a ratio is taken within each round.
    """
    names = list(candidates)
    for run in candidates.values():
        run()
    clocks: dict[str, list[Clocks]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            clocks[name].append(_timed(candidates[name]))
    table = {name: np.array(values) for name, values in clocks.items()}
    result = {}
    for name in names[:-1]:
        quotient = table[name] / table[names[-1]]
        wall, cpu = (Ratio(*np.percentile(quotient[:, clock], [50, 25, 75]).tolist()) for clock in (0, 1))
        result[name] = wall, cpu
    return result


def report(title: str, candidates: Mapping[str, Callable[[], object]], rounds: int) -> None:
    """Prints a line for each candidate but the last, which it is compared with."""
    reference = list(candidates)[-1]
    for name, (wall, cpu) in ratios(candidates, rounds).items():
        load = os.getloadavg()[0]
        print(f"{title:<34} {name} / {reference}: CPU {cpu}, wall {wall}, load {load:.1f}", flush=True)


def _timed(run: Callable[[], object]) -> Clocks:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu
