"""A variables tree as one safetensors file: arrays under `params/conv1/conv/kernel`, strings as metadata."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from auxjax.errors import AuxjaxError, missing_extra
from auxjax.export.network import Network, check_outputs
from auxjax.proof import check_paths, paths

FORMAT = {"format": "auxjax", "format_version": "1"}


def write_tensors(path: str | os.PathLike[str], network: Network, metadata: Mapping[str, str]) -> None:
    """Writes the network's variables, whole or not at all, after they were read back and run on its examples.

    Raises AuxjaxError where what was read is not the network's, bit for bit, or gives other outputs.
    """
    with new_file(path) as temporary:
        save_tree(temporary, network.variables, metadata)
        variables, _ = read_tensors(temporary)
        check_paths(paths(variables), paths(network.variables), f"{path} was not written right")
        pairs = zip(jax.tree.leaves(variables), jax.tree.leaves(dict(network.variables)), strict=True)
        if not all(np.array_equal(a, b, equal_nan=True) for a, b in pairs):
            raise AuxjaxError(f"{path} was not written right: its arrays differ from the network's")
        run = jax.jit(network.function)
        check_outputs(str(path), network, lambda x: run(variables, x))


def save_tree(path: Path, variables: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Writes a tree of dicts of arrays, bfloat16 among them; raises AuxjaxError for anything else in it."""
    save_arrays(path, dict(_flatten(variables)), {**metadata, **FORMAT})


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes arrays by name."""
    try:
        from safetensors.numpy import save_file
    except ImportError:
        raise missing_extra("safetensors", "export") from None
    save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path, dict(metadata))


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the variables tree, on the host, and the metadata of a file that `write_tensors` wrote.

    Raises AuxjaxError for a file that is missing, truncated, or of another format, and for names that make no tree.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise missing_extra("safetensors", "export") from None
    if not Path(path).is_file():
        raise AuxjaxError(f"no file {str(path)!r}")
    try:
        # Of the frameworks there are, numpy's refuses bfloat16.
        with safe_open(path, framework="flax") as file:
            metadata = dict(file.metadata() or {})
            if {key: metadata.get(key) for key in FORMAT} != FORMAT:
                raise AuxjaxError(f"{path} is not of auxjax's format version {FORMAT['format_version']}: {metadata}")
            arrays = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        if isinstance(error, AuxjaxError):
            raise
        raise AuxjaxError(f"{path} is no whole safetensors file: {' '.join(str(error).split())[:160]}") from None
    return _unflatten(arrays, str(path)), metadata


@contextmanager
def new_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path that takes the place of `path` at the end, or is removed where the block raised."""
    target = Path(path)
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for key, value in tree.items():
        if not isinstance(key, str) or not key or "/" in key:
            raise AuxjaxError(f"variables cannot be saved: {key!r} in {prefix or 'their top'} is no name without '/'")
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}/")
        elif hasattr(value, "shape") and hasattr(value, "dtype"):
            yield prefix + key, np.asarray(value)
        else:
            raise AuxjaxError(f"variables cannot be saved: {prefix}{key} is a {type(value).__name__}, not an array")


def _unflatten(arrays: Mapping[str, np.ndarray], path: str) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, leaf = name.split("/")
        node: Any = tree
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or not parents or not all(name.split("/")) or leaf in node:
            raise AuxjaxError(f"{path} has the name {name!r}, which fits in no tree of variables")
        node[leaf] = array
    return tree
