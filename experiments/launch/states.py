"""What the states of a queued resource and of its TPU VM ask for; pure, so that every course can be tested."""

from __future__ import annotations

from typing import Literal

Action = Literal["create", "wait", "ready", "delete"]

# https://cloud.google.com/tpu/docs/queued-resources: a request that ends here stays, and counts against the quota.
DEAD = ("FAILED", "SUSPENDED")


def action(state: str | None) -> Action:
    """Returns what to do about a request in `state` (None: there is none); an unknown state is waited for."""
    if state is None:
        return "create"
    if state == "ACTIVE":
        return "ready"
    return "delete" if state in DEAD else "wait"


def is_preempted(request: str | None, node: str | None) -> bool:
    """Returns whether the machine was taken away: its request is no longer active, or the VM no longer ready."""
    return request != "ACTIVE" or node != "READY"


def pause(attempt: int, seconds: float) -> float:
    """Returns how long to wait before request number `attempt` (from 0) is made again: doubling, up to 64 times."""
    return seconds * min(2**attempt, 64)
