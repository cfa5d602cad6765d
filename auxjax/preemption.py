"""SIGTERM, by which schedulers and spot machines tell a process to go: training saves after its step, and stops."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax


class Preempted(SystemExit):
    """Training stopped after `step` because of SIGTERM, with all saved: an exit with code 0, unless it is caught."""

    def __init__(self, step: int) -> None:
        super().__init__(0)
        self.step = step

    def __str__(self) -> str:
        return "stopped by SIGTERM" + (f" after step {self.step}, which is saved" if self.step else "")


def never(step: int) -> bool:
    """Returns False: nobody listens."""
    return False


@contextlib.contextmanager
def watched() -> Iterator[Callable[[int], bool]]:
    """Gives `requested(step)`: whether SIGTERM came, in the same step on all processes, each of which asks every step.

    Who is told so saves and raises Preempted, and a signal that nobody asked about is raised at the end: what has to be
    waited for belongs inside. More signals change nothing, since schedulers send several. Python can listen in the main
    thread alone; elsewhere a signal does what it did before. Of several processes JAX's own service hears it.
    """
    if jax.process_count() > 1:
        yield _of_several()
        return
    if threading.current_thread() is not threading.main_thread():
        yield never
        return
    came: list[int] = []
    asked = [0]

    def note(number: int, frame: Any) -> None:
        came.append(number)

    def requested(step: int) -> bool:
        asked[0] = step
        return bool(came)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield requested
    finally:
        signal.signal(signal.SIGTERM, before)
    if came:
        raise Preempted(asked[0])


def _of_several() -> Callable[[int], bool]:
    """Returns `requested` of several processes.

    JAX chooses the number after the largest that any process has asked about, and answers yes to that one alone. A run
    that is resumed asks first about a later one, and would miss a signal from before: so all numbers are asked about.
    """
    from jax.experimental import multihost_utils

    asked = [0]

    def requested(step: int) -> bool:
        answers = [multihost_utils.reached_preemption_sync_point(n) for n in range(asked[0] + 1, step + 1)]
        asked[0] = step
        return any(answers)

    return requested
