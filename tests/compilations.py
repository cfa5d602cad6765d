"""Counts programs as JAX lowers them, cached on disk or not."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator
from typing import Any

import jax

_active: list[collections.Counter[str]] = []
_EVENT = "/jax/core/compile/jaxpr_to_mlir_module_duration"


def _listen(event: str, duration_secs: float, **facts: Any) -> None:
    if event == _EVENT:
        for counter in _active:
            counter[str(facts.get("fun_name", "?")).removeprefix("jit(").removesuffix(")")] += 1


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextlib.contextmanager
def counted() -> Iterator[collections.Counter[str]]:
    """Yields a counter of the programs lowered inside the block, by the name of their function."""
    counter: collections.Counter[str] = collections.Counter()
    _active.append(counter)
    try:
        yield counter
    finally:
        _active.remove(counter)
