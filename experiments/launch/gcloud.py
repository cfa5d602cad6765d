"""The life of a TPU slice: requested, waited for, requested again when it fails, deleted."""

from __future__ import annotations

import json
import time
from typing import Any

from experiments.launch import commands, slices, states
from experiments.launch.options import Launch
from experiments.launch.shell import LaunchError, capture, last_line, say, show, stream

_LOOKS_FOR_PREEMPTION = 4  # a worker is told to end before its slice is said to be preempted


def create(launch: Launch) -> None:
    """Returns when the slice is there with all hosts; requests it, and a dead request anew up to `retries` times."""
    attempt, before, shown = 0, "", False
    while True:
        state = request_state(launch, shown=not shown)
        shown = True
        if state != before:
            say(f"request {launch.name}: {state or 'not made yet'}")
            before = state or ""
        action = states.action(state)
        if action == "ready":
            return _check_hosts(launch)
        if action == "create":
            _run(commands.create(launch), "the request was refused")
        elif action == "delete":
            if attempt >= launch.retries:
                raise LaunchError(f"request {launch.name} is {state} after {attempt} retries: `delete` it")
            delete(launch)
            time.sleep(states.pause(attempt, launch.poll_seconds))
            attempt += 1
        else:
            time.sleep(launch.poll_seconds)


def delete(launch: Launch) -> None:
    """Deletes the request and its VM, and waits until both are gone; one that is not there is well."""
    if request_state(launch) is None:
        say(f"there is no request {launch.name} in {launch.zone}")
        return
    _run(commands.delete(launch), "it was not deleted")
    while request_state(launch) is not None:
        time.sleep(launch.poll_seconds)


def is_preempted(launch: Launch) -> bool:
    """Returns whether the slice was taken away; looks several times, since the workers end first."""
    for look in range(_LOOKS_FOR_PREEMPTION):
        if look:
            time.sleep(launch.poll_seconds)
        request = request_state(launch, shown=not look)
        node = _described(commands.describe_node(launch), shown=not look)
        state = None if node is None else str(node.get("state"))
        if states.is_preempted(request, state):
            say(f"request {launch.name}: {request or 'gone'}; VM: {state or 'gone'}")
            return True
    return False


def request_state(launch: Launch, shown: bool = False) -> str | None:
    """Returns the request's state, None where there is none."""
    found = _described(commands.describe_request(launch), shown)
    return None if found is None else str(found.get("state", {}).get("state", "UNKNOWN"))


def _described(argv: list[str], shown: bool) -> dict[str, Any] | None:
    """Returns what gcloud describes, None for what does not exist; raises LaunchError for any other failure."""
    if shown:
        show(argv)
    done = capture(argv)
    if done.code:
        if "NOT_FOUND" in done.error or "not found" in done.error:
            return None
        lines = [line for line in done.error.splitlines() if line.startswith("ERROR")]
        raise LaunchError(lines[0].removeprefix("ERROR: ") if lines else f"gcloud: {last_line(done.error)}")
    return dict(json.loads(done.out))


def _check_hosts(launch: Launch) -> None:
    node = _described(commands.describe_node(launch), shown=True) or {}
    found, expected = len(node.get("networkEndpoints", [])), slices.sizes(launch.type).hosts
    if found != expected:
        raise LaunchError(f"{launch.name} has {found} of the {expected} hosts of {launch.type}: see `delete`")
    say(f"{launch.name} is there: {found} host{'s' if found > 1 else ''}")


def _run(argv: list[str], failed: str) -> None:
    if stream(argv, ""):
        raise LaunchError(f"{failed}: gcloud says why above")
