"""A run's folder: resolved config, overrides, versions, metrics, checkpoints and DONE; a folder serves one config."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import time
import uuid
from typing import Any

import jax

from auxjax import config as configs
from auxjax import processes, storage
from auxjax.data import DataSet
from auxjax.errors import AuxjaxError
from auxjax.storage import Folder, PathLike, write_json, write_text
from auxjax.untrusted import is_size, read_json

_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "ml-collections",
    "tensorflow-datasets",
    "grain",
    "numpy",
)

# A network file system may show a new file so much later.
_SHARED_SECONDS = 5.0


def check_folder(config: Any, workdir: PathLike) -> Folder:
    """Returns the run's folder, which can be written and is new or of the same config; nothing is written yet.

    Raises AuxjaxError for a folder of another config, naming the difference.
    """
    folder = storage.folder(workdir)
    if (folder / "config.json").exists():
        difference = configs.difference(_state_of(read_config(folder)), _state_of(config))
        if difference:
            raise AuxjaxError(
                f"workdir {folder} is of another config: {difference}; give another --workdir, or its own config"
            )
    return folder


def _state_of(config: Any) -> dict[str, Any]:
    """Returns a config by dotted key, alike for policies on what is not finite that have the same state."""
    flat = configs.flatten(config)
    return flat | {"train.non_finite": "skip" if flat.get("train.non_finite") == "skip" else "stop"}


def shared_folder(config: Any, workdir: PathLike) -> Folder:
    """Returns what `check_folder` does, in every process; raises AuxjaxError where it is not the same folder in all."""
    folder = processes.together(lambda: check_folder(config, workdir))
    if processes.count() == 1:
        return folder
    probe = folder / f".shared_test_{processes.agree(uuid.uuid4().hex)}"
    if processes.is_writer():
        storage.write_text(probe, "")
    processes.barrier("probe is there")
    deadline = time.monotonic() + _SHARED_SECONDS
    while not (found := probe.exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    without = [number for number, seen in enumerate(processes.gather(found)) if not seen]
    if processes.is_writer():
        probe.unlink()
    if without:
        raise AuxjaxError(
            f"workdir {folder} is not the same folder in process 0 and in {', '.join(map(str, without))}: give "
            "--workdir a folder that all hosts share"
        )
    return folder


def check_same(config: Any) -> None:
    """Raises AuxjaxError, naming the difference, where this process has another config than process 0."""
    if processes.count() > 1:
        difference = configs.difference(configs.from_json(processes.agree(configs.to_json(config))), config)
        if difference:
            raise AuxjaxError(f"this process has another config than process 0: {difference}; start all alike")


def describe(folder: Folder, config: Any, dataset: DataSet) -> None:
    """Writes what runs: config, overrides, versions, and what inference must know of the data."""
    write_text(folder / "config.json", configs.to_json(config))
    write_json(folder / "overrides.json", overrides(config))
    write_json(folder / "versions.json", versions())
    write_json(folder / "dataset.json", {key: value for key, value in dataset._asdict().items() if key != "splits"})


def mark_done(folder: Folder, step: int, evaluation: dict[str, float]) -> None:
    """Writes DONE, with the scores on the test split, and takes FAILED away."""
    write_json(folder / "DONE", {"step": step, **evaluation})
    (folder / "FAILED").unlink(missing_ok=True)


def mark_failed(folder: Folder, status: str, error: str, step: int) -> None:
    """Writes FAILED, by which a report counts the run; `status` is "failed" or "diverged", `error` one line."""
    write_json(folder / "FAILED", {"error": error, "step": step, "status": status})


def read_config(folder: Folder) -> Any:
    """Returns the resolved config of a run's folder; raises AuxjaxError where there is none."""
    path = folder / "config.json"
    if not path.exists():
        raise AuxjaxError(f"no run in {folder}: there is no config.json; train with --workdir={folder} first")
    return configs.from_json(storage.read_text(path))


def overrides(config: Any) -> dict[str, Any]:
    """Returns the keys of a config that are not as in the base config, by dotted path."""
    base = configs.flatten(configs.base())
    return {key: value for key, value in configs.flatten(config).items() if key not in base or base[key] != value}


def versions() -> dict[str, Any]:
    """Returns what ran: Python, packages, the command line and the devices."""
    from auxjax._version import __version__

    installed = {name: importlib.metadata.version(name) for name in _PACKAGES}
    devices = [f"{device.platform} {device.device_kind}" for device in jax.devices()]
    return {
        "auxjax": __version__,
        "python": platform.python_version(),
        "argv": sys.argv,
        "devices": devices,
    } | installed


def read_dataset(folder: Folder) -> dict[str, Any]:
    """Returns what `describe` wrote; raises AuxjaxError where it is missing, or has no sizes of images and classes."""
    path = folder / "dataset.json"
    if not path.exists():
        raise AuxjaxError(f"the run in {folder} never got to its data: there is no dataset.json; train it again")
    dataset = read_json(path, "train it again")
    shape = dataset.get("image_shape")
    sizes = [*shape, dataset.get("num_classes")] if isinstance(shape, list) else []
    if len(sizes) != 4 or not all(map(is_size, sizes)):
        raise AuxjaxError(f"{path} has no image_shape of three sizes, or no num_classes: train it again")
    return dataset
