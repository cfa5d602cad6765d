"""Ways to spoil a file: bytes as a disk spoils them, JSON as somebody would who knows what it is read for."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auxjax.errors import AuxjaxError

_NAMES = ("../../outside", "/etc/passwd", "__class__", "lock", "", "a.b", "params", "\0", "x" * 5000, "\u2028")
_NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**63), 10**30, float("nan"), float("inf"), -0.0, 1e-300, 0.5)


def values() -> Any:
    """Values of every type that JSON has, with those that break readers."""
    plain = st.one_of(
        st.none(), st.booleans(), st.sampled_from(_NAMES), st.sampled_from(_NUMBERS), st.integers(), st.text(max_size=9)
    )
    return st.recursive(
        plain,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(st.sampled_from(_NAMES) | st.text(max_size=5), inner, max_size=3),
        ),
        max_leaves=6,
    )


@st.composite
def spoilt_bytes(draw: Any, whole: bytes) -> bytes:
    """A file's bytes with a few of them changed, cut off, put in or taken out."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        how = draw(st.sampled_from(("flip", "cut", "insert", "remove", "nest")))
        if how == "flip" and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del data[place:]
        elif how == "insert":
            data[place:place] = draw(st.binary(max_size=12))
        elif how == "remove":
            del data[place : place + draw(st.integers(1, 40))]
        elif how == "nest":
            data[place:place] = draw(st.sampled_from((b"[", b'{"a":'))) * draw(st.sampled_from((3, 40, 2000, 200_000)))
    return bytes(data)


@st.composite
def spoilt_json(draw: Any, whole: str) -> bytes:
    """A JSON file with one to three of its values replaced, removed, added or renamed."""
    tree = json.loads(whole)
    for _ in range(draw(st.integers(1, 3))):
        holders = list(_holders(tree))
        holder = holders[draw(st.integers(0, len(holders) - 1))]
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        how = draw(st.sampled_from(("replace", "replace", "remove", "add", "rename")))
        if how == "add" or not keys:
            if isinstance(holder, dict):
                holder[draw(st.sampled_from(_NAMES))] = draw(values())
            else:
                holder.append(draw(values()))
            continue
        key = keys[draw(st.integers(0, len(keys) - 1))]
        if how == "replace":
            holder[key] = draw(values())
        else:
            value = holder.pop(key)
            if how == "rename" and isinstance(holder, dict):
                holder[draw(st.sampled_from(_NAMES))] = value
    return json.dumps(tree).encode()


def spoilt(path: Path) -> Any:
    """Both, of a JSON file."""
    return spoilt_json(path.read_text()) | spoilt_bytes(path.read_bytes())


def _holders(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict | list):
        yield tree
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _holders(value)


def fuzz(strategy: Any, check: Callable[[Any], None], examples: int) -> None:
    """Calls `check` on so many drawn values, the same ones each time; keeps nothing on the disk."""
    chosen = settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    chosen(given(strategy)(check))()


def refused_or_read(read: Callable[[], Any], folder: Path, seconds: int = 30) -> None:
    """Asserts that reading ends in time, in a value or an AuxjaxError of one line, and leaves the folder as it was."""
    before = _snapshot(folder)
    with _limit(seconds):
        try:
            read()
        except AuxjaxError as error:
            assert "\n" not in str(error) and 0 < len(str(error)) < 4000, repr(str(error)[:200])
    assert _snapshot(folder) == before


def _snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


@contextlib.contextmanager
def _limit(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"not done within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
