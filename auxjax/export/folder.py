"""A folder as model hubs have it: config.json, model.safetensors and a model card, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from auxjax import build
from auxjax._version import __version__
from auxjax.check import finalize
from auxjax.config import base, plain, tuples
from auxjax.described import building, check_sizes
from auxjax.errors import AuxjaxError
from auxjax.export.tensors import read_tensors
from auxjax.manifest import shown
from auxjax.proof import bare_shapes, check_paths, paths
from auxjax.untrusted import is_size, parse

CONFIG, TENSORS, CARD = "config.json", "model.safetensors", "README.md"
_FORMAT = {"format": "auxjax", "format_version": 1}
_KEYS = ("model", "num_classes", "dtype", "image_shape", "mean", "std", "dataset", "auxjax_version")


def describe(config: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Returns config.json's content: what rebuilds the model of a finished config, and how to normalise its images.

    `dataset` is what a run's dataset.json says: name, num_classes, image_shape, mean and std.
    """
    return {
        **_FORMAT, "auxjax_version": __version__, "model": plain(config["model"]), "dtype": config["dtype"],
        "dataset": dataset["name"], **{key: dataset[key] for key in ("num_classes", "image_shape", "mean", "std")},
    }  # fmt: skip


def load_folder(path: str | os.PathLike[str]) -> tuple[dict[str, Any], nn.Module, dict[str, Any]]:
    """Returns (config, model, variables) of an exported folder: `model.apply(variables, x, train=False)`.

    `config` is config.json's content. Raises AuxjaxError for a folder that is no export of auxjax, a config that makes
    no model, a damaged file, and, naming the first, for an array that is missing, too many or of another shape.
    """
    folder = Path(path)
    config = read_description(folder)
    with building(folder):
        made = finalize(base().to_dict() | {"model": tuples(config["model"]), "dtype": config["dtype"]})
        model = build.model(made, config["num_classes"])
        bare = bare_shapes(model, jax.ShapeDtypeStruct((1, *config["image_shape"]), jnp.float32))
    if not (folder / TENSORS).is_file():
        raise AuxjaxError(f"{folder} has no {TENSORS}: export it with --formats=safetensors")
    variables, _ = read_tensors(folder / TENSORS)
    check_paths(paths(variables), paths(bare), f"{folder / TENSORS} is not of the model in {CONFIG}")
    return config, model, variables


def read_description(folder: Path) -> dict[str, Any]:
    """Returns config.json's content; raises AuxjaxError where it is missing, damaged, or lacks a key."""
    file = folder / CONFIG
    if not file.is_file():
        raise AuxjaxError(f"no export in {folder}: there is no {CONFIG}")
    try:
        config = parse(file.read_text())
    except ValueError:
        raise AuxjaxError(f"{file} is no JSON: it was damaged, or edited by hand") from None
    if not isinstance(config, dict) or {key: config.get(key) for key in _FORMAT} != _FORMAT:
        raise AuxjaxError(f"{file} is not of auxjax's export format version {_FORMAT['format_version']}")
    lost = [key for key in _KEYS if key not in config]
    shape, classes = config.get("image_shape"), config.get("num_classes")
    if lost:
        raise AuxjaxError(f"{file} lost its keys {', '.join(lost)}: export the run again")
    if not isinstance(shape, list) or len(shape) != 3 or not all(map(is_size, shape)) or not is_size(classes):
        found = f"image_shape={shown(repr(shape))} and num_classes={shown(repr(classes))}"
        raise AuxjaxError(f"{file} has {found}: not [H, W, C] and a count")
    check_sizes(config["model"], f"{file}: model")
    if not isinstance(config["model"], dict):
        raise AuxjaxError(f"{file} has model={shown(repr(config['model']))}: not a name and fields")
    return config


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary folder that takes the place of `path` at the end, or is removed where the block raised.

    Raises AuxjaxError where `path` is there and neither empty nor an export of auxjax, and where it cannot be written.
    """
    target = Path(os.path.abspath(os.path.expanduser(path)))
    check_target(target)
    temporary, old = (target.with_name(f".{target.name}.{kind}.{os.getpid()}") for kind in ("new", "old"))
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise AuxjaxError(f"folder {str(target)!r} cannot be written: {error.strerror}") from None
    try:
        yield temporary
        if target.exists():
            os.rename(target, old)
        os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_target(target: Path) -> None:
    """Raises AuxjaxError unless `target` is absent, empty, or an export of auxjax with no file of anybody else's."""
    if not target.exists():
        return
    if not target.is_dir():
        raise AuxjaxError(f"{target} is a file: give --output a folder of your own")
    foreign = [p.name for p in sorted(target.iterdir()) if not _is_ours(p.name)]
    with contextlib.suppress(StopIteration):
        next(target.iterdir())
        if not foreign:
            read_description(target)
    if foreign:
        raise AuxjaxError(f"folder {target} holds {foreign[0]!r}, which is no export of auxjax: give another --output")


def _is_ours(name: str) -> bool:
    return name in (CONFIG, TENSORS, CARD, "model.stablehlo", "model.onnx") or name.endswith("_torchvision.safetensors")
