"""Damage to the files of a folder, as disks, interruptions and people do it; each says what it did."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

Damage = Callable[[Path, np.random.Generator], str]


def files(folder: Path) -> list[Path]:
    """Returns the files of a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def pick(folder: Path, rng: np.random.Generator) -> Path:
    """Returns one of them at random."""
    found = files(folder)
    return found[rng.integers(len(found))]


def flip(folder: Path, rng: np.random.Generator) -> str:
    """Turns a bit."""
    path = pick(folder, rng)
    data = bytearray(path.read_bytes() or b"\0")
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)
    return f"a bit of {path}"


def truncate(folder: Path, rng: np.random.Generator) -> str:
    """Cuts a file short."""
    path = pick(folder, rng)
    data = path.read_bytes()
    path.write_bytes(data[: rng.integers(len(data))] if data else b"more")
    return f"the end of {path}"


def remove(folder: Path, rng: np.random.Generator) -> str:
    """Removes a file."""
    path = pick(folder, rng)
    path.unlink()
    return f"{path} removed"


def empty(folder: Path, rng: np.random.Generator) -> str:
    """Empties a file."""
    path = pick(folder, rng)
    path.write_bytes(b"" if path.stat().st_size else b"\0")
    return f"{path} emptied"


def swap(folder: Path, rng: np.random.Generator) -> str:
    """Exchanges the content of two files."""
    one = pick(folder, rng)
    others = [path for path in files(folder) if path.read_bytes() != one.read_bytes()]
    other = others[rng.integers(len(others))]
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)
    return f"{one} and {other} swapped"


def add(folder: Path, rng: np.random.Generator) -> str:
    """Adds a file."""
    path = pick(folder, rng).parent / f"new{rng.integers(1000)}"
    path.write_bytes(rng.bytes(int(rng.integers(20))))
    return f"{path} added"


def clear(folder: Path, rng: np.random.Generator) -> str:
    """Leaves an empty folder."""
    shutil.rmtree(folder)
    folder.mkdir()
    return f"all of {folder}"


DAMAGES: tuple[Damage, ...] = (flip, truncate, remove, empty, swap, add, clear)
