"""CIFAR-10 and CIFAR-100 from either of the archives that are published for each (Krizhevsky 2009)."""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from auxjax.errors import AuxjaxError

Arrays = tuple[np.ndarray, np.ndarray]
_DAMAGED = (
    *(tarfile.TarError, zlib.error, pickle.UnpicklingError, OSError, EOFError, AttributeError, ImportError),
    *(IndexError, KeyError, MemoryError, TypeError, ValueError),
)  # the last row, and most of the first, is what a damaged pickle may raise


def cifar10(source: str | None) -> tuple[dict[str, Arrays], int]:
    """CIFAR-10 from cifar-10-binary.tar.gz or cifar-10-python.tar.gz."""
    train = [f"data_batch_{i}" for i in range(1, 6)]
    return _read(source, "cifar-10", train, ["test_batch"], label_bytes=1, labels="labels"), 10


def cifar100(source: str | None) -> tuple[dict[str, Arrays], int]:
    """CIFAR-100 with its fine labels from cifar-100-binary.tar.gz or cifar-100-python.tar.gz."""
    return _read(source, "cifar-100", ["train"], ["test"], label_bytes=2, labels="fine_labels"), 100


def _read(
    source: str | None, stem: str, train: list[str], test: list[str], label_bytes: int, labels: str
) -> dict[str, Arrays]:
    names = f"{stem}-binary.tar.gz or {stem}-python.tar.gz"
    if not source or not Path(source).is_file():
        raise AuxjaxError(f"{stem} is read from {names}: give --source=FILE" + (f"; no file {source!r}" * bool(source)))
    try:
        with tarfile.open(source) as tar:
            files = {Path(member.name).name: member for member in tar if member.isfile()}
            binary = f"{train[0]}.bin" in files

            def one(name: str) -> Arrays:
                content = tar.extractfile(files[f"{name}.bin" if binary else name]).read()  # type: ignore[union-attr]
                return from_binary(content, label_bytes) if binary else from_pickle(content, labels)

            parts = {"train": [one(name) for name in train], "test": [one(name) for name in test]}
    except _DAMAGED as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise AuxjaxError(f"{source} is not {names} as published, or it is damaged ({problem})") from None
    return {
        split: (np.concatenate([p[0] for p in ps]), np.concatenate([p[1] for p in ps])) for split, ps in parts.items()
    }


def from_binary(content: bytes, label_bytes: int) -> Arrays:
    """Returns (uint8[N, 32, 32, 3], int64[N]) of records: label bytes, the last the finest, then three planes."""
    records = np.frombuffer(content, np.uint8).reshape(-1, label_bytes + 3072)
    return _images(records[:, label_bytes:]), records[:, label_bytes - 1].astype(np.int64)


def from_pickle(content: bytes, labels: str) -> Arrays:
    """Returns (uint8[N, 32, 32, 3], int64[N]) of a pickled dict with `data` uint8[N, 3072] and its `labels`."""
    loaded = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    fields = {key.decode() if isinstance(key, bytes) else key: value for key, value in loaded.items()}
    data, label = fields["data"], np.asarray(fields[labels], np.int64)
    if data.dtype != np.uint8 or data.shape != (len(label), 3072):
        raise ValueError(f"{data.dtype}{list(data.shape)} for {len(label)} labels")
    return _images(data), label


def _images(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


class _ArraysOnly(pickle.Unpickler):
    """Unpickles dicts, lists, numbers, text and NumPy arrays; a pickle could otherwise run any program."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return super().find_class("numpy._core.multiarray", name)
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes into pickles for Python 2
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
