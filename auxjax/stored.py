"""What a checkpoint's item holds, read as plain JSON before any memory is taken for it: paths, shapes and dtypes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import tensorstore

from auxjax.errors import AuxjaxError
from auxjax.manifest import shown
from auxjax.proof import check_paths, paths
from auxjax.storage import Folder, key_value_store, size
from auxjax.untrusted import parse

_LARGEST = 64 * 2**20  # bytes of an item's metadata
_LARGEST_ARRAY = 2**16  # bytes of one array's metadata
# Containers without an array in them.
_EMPTY = ("Dict", "List", "Tuple", "NamedTuple", "None")


def check_stored(directory: Folder, expected: Any, wrong: str, *, partial: bool = False) -> None:
    """Raises AuxjaxError, opening with `wrong`, unless an item has exactly the arrays of `expected`, a tree of them.

    With `partial`, only the entries of the item's top level that `expected` has are looked at. Each array must be cut
    into no larger chunks than itself, so that what is restored takes the memory of what was expected.
    """
    tree = jax.tree.map(_data_of_key, expected)
    found = _arrays(directory, set(tree) if partial else None)
    wanted = paths(tree)
    check_paths(dict.fromkeys(found, ""), dict.fromkeys(wanted, ""), wrong)
    check_paths(_layouts(directory, found), wanted, wrong)


def _arrays(directory: Folder, only: set[str] | None) -> dict[str, str]:
    """Returns the name in storage of each array of an item by its path; raises AuxjaxError for what is no array."""
    metadata = _read_metadata(directory)
    if metadata.get("use_ocdbt") is not True or metadata.get("use_zarr3") not in (None, False):
        raise AuxjaxError(f"{directory} is not stored as auxjax stores it: use_ocdbt and zarr 2")
    tree = metadata.get("tree_metadata")
    found = {}
    for entry in _mapping(tree, directory).values():
        keys = _keys(_mapping(entry, directory).get("key_metadata"), directory)
        value = _mapping(_mapping(entry, directory).get("value_metadata"), directory)
        if only is not None and keys[0] not in only:
            continue
        if value.get("value_type") == "jax.Array":
            found["/".join(keys)] = ".".join(keys)
        elif value.get("value_type") not in _EMPTY or value.get("skip_deserialize") is not True:
            raise AuxjaxError(f"{directory} holds what is no array: {shown('/'.join(keys))}")
    return found


def _read_metadata(directory: Folder) -> dict[str, Any]:
    path = directory / "_METADATA"
    try:
        if size(path) > _LARGEST:
            raise AuxjaxError(f"{path} is too large")
        return _mapping(parse(path.read_text()), directory)
    except (OSError, ValueError) as error:
        if isinstance(error, AuxjaxError):
            raise
        raise AuxjaxError(f"{path} cannot be read: it is missing or garbled") from None


def read_stored(directory: Folder, expected: Any, wrong: str, *, partial: bool = False) -> Any:
    """Returns an item's arrays laid out and placed like `expected`, which is compared with what is stored first.

    Orbax's own reader is not used: it reads more files than the arrays', and fails in other threads. Raises AuxjaxError
    as `check_stored` does, and for an array that cannot be read.
    """
    check_stored(directory, expected, wrong, partial=partial)
    leaves, structure = jax.tree_util.tree_flatten_with_path(expected)
    with refusing(directory):
        names = [".".join(str(getattr(key, "key", key)) for key in path) for path, _ in leaves]
        opened = [tensorstore.open({"driver": "zarr", "kvstore": _store(directory, f"{name}/")}) for name in names]
        reads = [array.result().read() for array in opened]
        return jax.tree.unflatten(
            structure, [_placed(read.result(), leaf) for read, (_, leaf) in zip(reads, leaves, strict=True)]
        )


@contextlib.contextmanager
def refusing(directory: Folder) -> Iterator[None]:
    """Makes one line of whatever a library raises for what it cannot take from a checkpoint."""
    try:
        yield
    except AuxjaxError:
        raise
    except Exception as error:
        text = shown(" ".join(str(error).split()))
        raise AuxjaxError(
            f"checkpoint {directory} cannot be read ({type(error).__name__}: {text}): take another step"
        ) from error


def _placed(array: np.ndarray, like: Any) -> jax.Array:
    """Returns an array that was read where `like` is, as a PRNG key of its kind if `like` is one."""
    if jax.numpy.issubdtype(like.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(jax.numpy.asarray(array), impl=jax.random.key_impl(like))
        return jax.device_put(key, like.sharding)
    return jax.device_put(array, like.sharding)


def _store(directory: Folder, path: str = "") -> dict[str, Any]:
    return {"driver": "ocdbt", "base": key_value_store(directory), "path": path}


def _layouts(directory: Folder, names: Mapping[str, str]) -> dict[str, str]:
    """Returns `dtype[shape]` of stored arrays by path, from their names in storage; reads no array."""
    with refusing(directory):
        store = tensorstore.KvStore.open(_store(directory)).result()
        reads = {path: store.read(f"{name}/.zarray") for path, name in names.items()}
        return {path: _layout(read.result(), f"{directory}: array {shown(path)}") for path, read in reads.items()}


def _layout(read: Any, where: str) -> str:
    """Returns `dtype[shape]` from an array's own metadata; raises AuxjaxError for chunks larger than the array."""
    if read.state != "value" or len(read.value) > _LARGEST_ARRAY:
        raise AuxjaxError(f"{where} is not there")
    try:
        array = parse(read.value.decode())
        shape, chunks, dtype = list(array["shape"]), list(array["chunks"]), np.dtype(array["dtype"])
        if not all(type(n) is int and n >= 0 for n in shape + chunks):
            raise ValueError
        fitting = all(0 < chunk <= max(size, 1) for size, chunk in zip(shape, chunks, strict=True))
    except (ValueError, TypeError, KeyError, SyntaxError):
        raise AuxjaxError(f"{where} has no readable shape") from None
    if not fitting or array.get("filters") is not None:
        raise AuxjaxError(f"{where} of {shown(str(shape))} is stored in chunks of {shown(str(chunks))}")
    return f"{dtype.name}{shape}"


def _data_of_key(x: Any) -> Any:
    """Returns the shape and dtype that an array is stored with: those of its data for a PRNG key."""
    stored = jax.eval_shape(jax.random.key_data, x) if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return jax.ShapeDtypeStruct(stored.shape, stored.dtype)


def _mapping(value: Any, directory: Folder) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise AuxjaxError(f"{directory / '_METADATA'} is garbled")
    return value


def _keys(value: Any, directory: Folder) -> list[str]:
    keys = [item.get("key") for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    names = [key for key in keys if isinstance(key, str)]
    if not names or len(names) != len(keys) or not isinstance(value, list) or len(keys) != len(value):
        raise AuxjaxError(f"{directory / '_METADATA'} is garbled")
    return names
