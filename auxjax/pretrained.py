"""Pretrained weights from torchvision's files, strict both ways, and back into torchvision's names."""

from __future__ import annotations

import dataclasses
import os
import pickle
import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from auxjax.attach import Attached
from auxjax.errors import AuxjaxError, missing_extra, nearest
from auxjax.torch_names import Entry, entries, head_entries, head_names

SUFFIXES = (".pth", ".pt", ".safetensors")
_COUNTER = "num_batches_tracked"


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """What an import did: numbers of arrays taken over, and what kept its initial values or was left in the file."""

    path: str
    loaded: int
    reinitialised: tuple[str, ...]
    dropped: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.loaded} arrays loaded"]
        for what, names in (("initial values kept", self.reinitialised), ("left in the file", self.dropped)):
            lines += [f"  {what}: {', '.join(names)}"] if names else []
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def import_weights(
    path: str | os.PathLike[str], model: nn.Module | Attached, variables: Mapping[str, Any], *,
    reinitialise: Collection[str] = (), heads: bool | None = None,
) -> tuple[dict[str, Any], ImportReport]:  # fmt: skip
    """Returns `variables` with the weights of a local torchvision checkpoint in place, and a report of what it did.

    `model` is bare or attached, `variables` as its `init` makes them (they give shapes and dtypes, and stay as they
    are). The file is `.safetensors`, or `.pth` read with torch's `weights_only`, which runs no code; `{"model":
    ...}` and `{"state_dict": ...}` around the tensors and `module.` before their names are taken off. Every array
    of the model must be in the file and every tensor of the file in the model, apart from `reinitialise`: submodules
    (`fc`), arrays (`pos_embedding`) or heads by name, which keep their initial values. A head is imported where
    torchvision has it at that tap and the file holds it; the file's other heads are dropped. torchvision never
    trained GoogLeNet's heads, so those are left out unless `heads=True`; `heads=False` leaves out every head. Raises
    AuxjaxError for a file that is damaged, holds code, or is of another network, naming the first array that differs.
    """
    bare = model.model if isinstance(model, Attached) else model
    halves = isinstance(model, Attached)
    own = {c: v["model"] for c, v in variables.items()} if halves else dict(variables)
    tensors = read_tensors(path)
    wanted = [("", entry) for entry in entries(bare, own)]
    kept = _check_names(reinitialise, [entry for _, entry in wanted], model)
    take_heads = "aux1" not in head_names(bare) if heads is None else heads
    notes = []
    for name, head in model.heads.items() if isinstance(model, Attached) else ():
        found = head_entries(bare, head.at, {c: v["heads"][name] for c, v in variables.items() if name in v["heads"]})
        present = {key for entry in found for key in entry.keys} <= set(tensors) and bool(found)
        if take_heads and present and name not in reinitialise:
            wanted += [(name, entry) for entry in found]
        else:
            kept.append(f"head {name}")
    if any(key.startswith("aux1.") for key in tensors) and heads is None:
        notes.append(
            "torchvision never trained GoogLeNet's auxiliary heads; import_weights(heads=True) takes them over"
        )
    loading = [(owner, entry) for owner, entry in wanted if owner or not _in(entry.path, reinitialise)]
    dropped = _check_tensors(tensors, [entry for _, entry in wanted], loading, bare, str(path))
    result = _place(variables, tensors, loading, halves, str(path))
    return result, ImportReport(str(path), len(loading), tuple(kept), tuple(dropped), tuple(notes))


def to_torchvision(model: nn.Module, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns a bare model's variables as torchvision's state dict, for `load_state_dict` of its network without heads.

    Raises AuxjaxError for a model that torchvision does not have.
    """
    leaves = dict(_flat(variables))
    state: dict[str, np.ndarray] = {}
    for entry in entries(model, variables):
        state.update(entry.to_torch(np.asarray(leaves[entry.path])))
    for key in [key for key in state if key.endswith("running_mean")]:
        state[key.replace("running_mean", _COUNTER)] = np.zeros((), np.int64)
    return state


def read_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns the tensors of a `.pth`, `.pt` or `.safetensors` file by name, on the host; runs no code from the file.

    Raises AuxjaxError for a file that is missing, damaged or holds anything else than tensors.
    """
    file = check_file(path)
    loaded = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pth(file)
    return {name.removeprefix("module."): value for name, value in loaded.items() if not name.endswith(_COUNTER)}


def check_file(path: str | os.PathLike[str]) -> Path:
    """Returns the path of a weights file that exists; raises AuxjaxError naming what is there otherwise."""
    file = Path(path).expanduser()
    if file.suffix not in SUFFIXES:
        raise AuxjaxError(f"weights {str(path)!r} must be a {', '.join(SUFFIXES)} file")
    if not file.is_file():
        there = [p.name for p in file.parent.glob("*") if p.suffix in SUFFIXES] if file.parent.is_dir() else []
        raise AuxjaxError(f"no weights file {str(path)!r}{nearest(file.name, there)}")
    return file


def _read_safetensors(file: Path) -> dict[str, np.ndarray]:
    try:
        from safetensors import SafetensorError
        from safetensors.flax import load_file
    except ImportError:
        raise missing_extra("safetensors", "export") from None
    try:
        return {name: np.asarray(value) for name, value in load_file(file).items()}
    except (SafetensorError, ValueError, OSError) as error:
        raise AuxjaxError(f"{file} is no whole safetensors file: {_one_line(error)}") from None


def _read_pth(file: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise missing_extra("torch", "torch") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle protocol, which either reads or is refused below
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise AuxjaxError(
            f"{file} was refused: it holds code or objects, or is damaged; only tensors are read ({_one_line(error)})"
        ) from None
    except Exception as error:  # its unpickler trusts the file to be well-formed
        raise AuxjaxError(f"{file} is no whole torch file: {_one_line(error)}") from None
    for key in ("model", "state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise AuxjaxError(f"{file} is no state dict: it holds something else than tensors by name")
    floats = {key: value.float() if value.is_floating_point() else value for key, value in loaded.items()}
    return {str(key): value.numpy() for key, value in floats.items()}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def _check_names(reinitialise: Collection[str], own: list[Entry], model: nn.Module | Attached) -> list[str]:
    """Returns what of the model to reinitialise; raises AuxjaxError for a name that is nothing of it and no head."""
    names = set(model.heads) if isinstance(model, Attached) else set()
    modules = {"/".join(parts[1:i]) for parts in (e.path.split("/") for e in own) for i in range(2, len(parts) + 1)}
    for name in reinitialise:
        if name not in names | modules:
            here = sorted({e.path.split("/")[1] for e in own if any(k.startswith(f"{name}.") for k in e.keys)})
            hint = f"; torchvision's {name} is {', '.join(here)} here" if here else nearest(name, [*names, *modules])
            raise AuxjaxError(f"nothing to reinitialise is called {name!r}{hint or f'; valid: {_top(own)}'}")
    return [name for name in reinitialise if name not in names]


def _top(own: list[Entry]) -> str:
    return ", ".join(dict.fromkeys(entry.path.split("/")[1] for entry in own))


def _in(path: str, modules: Iterable[str]) -> bool:
    inner = path.partition("/")[2]
    return any(f"{inner}/".startswith(f"{module}/") for module in modules)


def _check_tensors(
    tensors: Mapping[str, Any], known: list[Entry], loading: list[tuple[str, Entry]], bare: nn.Module, path: str
) -> list[str]:
    """Returns the heads that stay in the file; raises AuxjaxError for a tensor that is missing or too many."""
    name = type(bare).__name__
    missing = [key for _, entry in loading for key in entry.keys if key not in tensors]
    if missing:
        raise AuxjaxError(f"{path} is not of this {name}: {len(missing)} tensors are missing, {missing[0]!r} first")
    keys = {key for entry in known for key in entry.keys}
    heads = [head for head in head_names(bare) if any(key.startswith(f"{head}.") for key in set(tensors) - keys)]
    unused = [key for key in tensors if key not in keys and key.split(".")[0] not in heads]
    if unused:
        raise AuxjaxError(f"{path} is not of this {name}: {len(unused)} tensors are too many, {unused[0]!r} first")
    return [f"head {head}" for head in heads]


def _place(
    variables: Mapping[str, Any], tensors: Mapping[str, np.ndarray], loading: list[tuple[str, Entry]], halves: bool,
    path: str,
) -> dict[str, Any]:  # fmt: skip
    """Returns the variables with the tensors in place; raises AuxjaxError for a shape that differs."""
    new: dict[str, np.ndarray] = {}
    flat = dict(_flat(variables))
    differing: dict[str, str] = {}
    for owner, entry in loading:
        collection, _, inner = entry.path.partition("/")
        half = (f"heads/{owner}/" if owner else "model/") if halves else ""
        full = f"{collection}/{half}{inner}"
        shape = entry.torch_shape(flat[full].shape)
        wrong = [key for key in entry.keys if tensors[key].shape != shape]
        if not wrong:
            new[full] = entry.from_torch(tensors)
        for key in wrong:
            shapes = f"{list(tensors[key].shape)} in the file and {list(shape)} in this network"
            differing.setdefault(owner or inner.rpartition("/")[0] or inner, f"{key} is {shapes}")
    if differing:
        raise AuxjaxError(f"{path}: {next(iter(differing.values()))}; {_way_out(list(differing))}")

    def leaf(key_path: Any, value: Any) -> Any:
        full = "/".join(str(key.key) for key in key_path)
        return jax.numpy.asarray(new[full], value.dtype) if full in new else value

    result: dict[str, Any] = jax.tree_util.tree_map_with_path(leaf, dict(variables))
    return result


def _way_out(modules: list[str]) -> str:
    if len(modules) > 4:
        return f"{len(modules)} modules differ, so the file is of another network"
    return f"reinitialise={tuple(modules)!r} would leave {'it' if len(modules) == 1 else 'them'} out"


def _flat(variables: Any) -> list[tuple[str, Any]]:
    found = jax.tree_util.tree_flatten_with_path(variables)[0]
    return [("/".join(str(key.key) for key in path), leaf) for path, leaf in found]
