"""A compiled step in a file, for the launch: made where no device is, loaded where the same devices are.

What is inside was written by `pickle`, which runs code as it is read: only files that you made yourself may be
loaded, and one that another user owns, or can write, is refused.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from auxjax import config as configs
from auxjax.errors import AuxjaxError
from auxjax.parallel import Layout
from auxjax.preflight.steps import Step, step_of
from auxjax.storage import local_folder, local_place

_PACKAGES = ("auxjax", "jax", "jaxlib", "libtpu", "flax", "optax")


def header(config: Any, where: Layout) -> dict[str, Any]:
    """Returns what a kept step belongs to: versions, devices and the config."""
    text = json.dumps(configs.plain(config), sort_keys=True, default=list)
    return {
        "versions": {name: version(name) for name in _PACKAGES},
        "platform": where.devices[0].platform,
        "device_kind": where.devices[0].device_kind,
        "devices": len(where.devices),
        "config": hashlib.sha256(text.encode()).hexdigest(),
    }


def keep(executable: Any, path: str | Path, about: dict[str, Any]) -> Path:
    """Writes a compiled step: one line of JSON, then its bytes."""
    from jax.experimental import serialize_executable

    target = local_place(path)
    local_folder(target.parent)
    target.parent.mkdir(parents=True, exist_ok=True)
    payload = serialize_executable.serialize(executable)[0]
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(json.dumps(about).encode() + b"\n" + payload)
    return target


def load(path: str | Path, step: Step, where: Layout, about: dict[str, Any]) -> Callable[..., Any]:
    """Returns a kept step on the layout's devices: `(state, resident, inputs) -> (state, metrics)`, the state donated.

    `about` is the `header` of what it is loaded for. Raises AuxjaxError where there is none, where another user owns or
    can write the file or its folder, and where versions, devices or the config are not those that it was made for.
    """
    from jax.experimental import serialize_executable

    target = Path(path).expanduser().absolute()
    _check_owner(target)
    line, _, payload = target.read_bytes().partition(b"\n")
    try:
        found = json.loads(line)
    except ValueError:
        raise AuxjaxError(f"{target} is no compiled step: make it with experiments/preflight.py --keep") from None
    changed = configs.difference(found, about)
    if changed:
        raise AuxjaxError(f"{target} was compiled for something else: {changed}; compile it again")
    arguments = (step.state, step.resident, step.inputs)
    structures = (jax.tree.structure((arguments, {})), jax.tree.structure(jax.eval_shape(step.function, *arguments)))
    loaded: Callable[..., Any] = serialize_executable.deserialize_and_load(
        payload, *structures, backend=where.devices[0].client, execution_devices=where.devices
    )
    return loaded


def load_step(path: str | Path, config: Any, where: Layout) -> Callable[..., Any]:
    """Returns a kept step for a finished config on a layout's devices; raises AuxjaxError as `load` does."""
    return load(path, step_of(config), where, header(config, where))


def _check_owner(path: Path) -> None:
    if not path.is_file():
        raise AuxjaxError(f"no compiled step {path}: make it with experiments/preflight.py --keep")
    for place in (path, path.parent):
        found = place.stat()
        if found.st_uid != os.getuid():
            raise AuxjaxError(f"{place} is another user's: a compiled step runs code as it is loaded; compile your own")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise AuxjaxError(f"others can write {place}: a compiled step runs code as it is loaded; chmod go-w it")


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
