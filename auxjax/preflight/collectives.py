"""What devices send one another in a compiled program: its collectives by kind, count, bytes and group."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")

_KIND = re.compile(rf" ({'|'.join(KINDS)})(-start)?\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([\d,]*)\]")
_GROUPS = re.compile(r"replica_groups=(?:\[(\d+),(\d+)\]|\{\{([\d,]*)\})")
# As newer compilers write them: axes of a mesh with their sizes, and those that a group spans, whole or in part.
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}")
_AXIS, _SPANNED = re.compile(r"'([^']*)'=(\d+)"), re.compile(r"'([^']*)'(?::\(\d+\)(\d+))?")


class Collective(NamedTuple):
    """One collective: its kind, the bytes of its whole buffer on one device, and the `times` that a step runs it.

    The whole buffer is what an all-reduce sums, an all-gather returns and a reduce-scatter takes. `group` is how many
    devices take part, 0 for all; `asynchronous` whether other work may run meanwhile; `counted` whether the rounds of
    every loop around it are known, each unknown one counting as one round.
    """

    kind: str
    bytes: int
    times: int
    group: int
    asynchronous: bool
    counted: bool


def collectives(text: str) -> list[Collective]:
    """Returns the collectives of a compiled program's HLO text; a start and its done are one."""
    computations, entry = _computations(text)
    found: list[Collective] = []

    def visit(name: str, times: int, counted: bool) -> None:
        for line in computations.get(name, ()):
            match = _KIND.search(line)
            if match:
                found.append(_collective(line, match, times, counted))
            if re.search(r" \S*-(done|update)\(", line):
                continue  # names the computation that its start has run
            for called, trips in _calls(line):
                visit(called, times * (trips or 1), counted and trips is not None)

    visit(entry, 1, True)
    return found


def totals(found: list[Collective]) -> dict[str, dict[str, int]]:
    """Returns count and bytes of a step by kind, bytes being those of the whole buffers on one device."""
    table: dict[str, dict[str, int]] = {}
    for item in found:
        row = table.setdefault(item.kind, {"count": 0, "bytes": 0})
        row["count"] += item.times
        row["bytes"] += item.times * item.bytes
    return table


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    computations: dict[str, list[str]] = {}
    name, entry = "", ""
    for line in text.splitlines():
        opened = None if line.startswith(" ") else _COMPUTATION.match(line)
        if opened:
            name = opened[2]
            computations[name] = []
            entry = name if opened[1] else entry
        elif name:
            computations[name].append(line)
    return computations, entry


def _calls(line: str) -> Iterator[tuple[str, int | None]]:
    """Yields what an instruction calls, and how often: None for a loop whose rounds are unknown."""
    loop, trips = " while(" in line, _TRIPS.search(line)
    times = (int(trips[1]) if trips else None) if loop else 1
    for names in _CALLED.findall(line):
        for name in names.strip("{}").split(","):
            yield name.strip().lstrip("%"), times


def _collective(line: str, match: re.Match[str], times: int, counted: bool) -> Collective:
    kind, start = match[1], bool(match[2])
    group = _group(line)
    result = line[line.index("=") + 1 : match.start()].strip()
    if start and kind != "all-reduce":
        result = _elements(result)[1]  # of operand, result and what the runtime adds
    size = sum(_bytes(dtype, dimensions) for dtype, dimensions in _ARRAY.findall(result))
    whole = size * max(group, 1) if kind == "reduce-scatter" else size
    return Collective(kind, whole, times, group, start, counted)


def _group(line: str) -> int:
    mesh = _MESH.search(line)
    if mesh:
        sizes = {name: int(size) for name, size in _AXIS.findall(mesh[1])}
        return math.prod(int(part) if part else sizes.get(name, 1) for name, part in _SPANNED.findall(mesh[2]))
    match = _GROUPS.search(line)
    if not match:
        return 0
    return int(match[2]) if match[2] else len(match[3].split(",")) if match[3] else 0


def _elements(tuple_type: str) -> list[str]:
    """Returns the outermost elements of a tuple's type."""
    parts, depth, inside = [""], 0, tuple_type.strip()[1:-1]
    for character in inside:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _bytes(dtype: str, dimensions: str) -> int:
    count = math.prod(int(size) for size in dimensions.split(",") if size)
    if dtype in ("token", "opaque"):
        return 0
    bits = re.search(r"\d+", dtype)
    return count if dtype == "pred" or not bits else -(-count * int(bits[0]) // 8)
