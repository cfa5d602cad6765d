"""Damage to the files of a folder, as disks, interruptions and people do it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

Damage = Callable[[Path, np.random.Generator], str]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def pick(folder: Path, rng: np.random.Generator) -> Path:
    found = files(folder)
    return found[rng.integers(len(found))]


def flip(folder: Path, rng: np.random.Generator) -> str:
    path = pick(folder, rng)
    data = bytearray(path.read_bytes() or b"\0")
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)
    return f"a bit of {path}"


def truncate(folder: Path, rng: np.random.Generator) -> str:
    path = pick(folder, rng)
    data = path.read_bytes()
    path.write_bytes(data[: rng.integers(len(data))] if data else b"more")
    return f"the end of {path}"


def remove(folder: Path, rng: np.random.Generator) -> str:
    path = pick(folder, rng)
    path.unlink()
    return f"{path} removed"


def empty(folder: Path, rng: np.random.Generator) -> str:
    path = pick(folder, rng)
    path.write_bytes(b"" if path.stat().st_size else b"\0")
    return f"{path} emptied"


def swap(folder: Path, rng: np.random.Generator) -> str:
    one = pick(folder, rng)
    others = [path for path in files(folder) if path.read_bytes() != one.read_bytes()]
    other = others[rng.integers(len(others))]
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)
    return f"{one} and {other} swapped"


def add(folder: Path, rng: np.random.Generator) -> str:
    path = pick(folder, rng).parent / f"new{rng.integers(1000)}"
    path.write_bytes(rng.bytes(int(rng.integers(20))))
    return f"{path} added"


DAMAGES: tuple[Damage, ...] = (flip, truncate, remove, empty, swap, add)
