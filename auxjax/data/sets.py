"""Prepared data sets: found by name on disk, read as random-access sources, checked where they enter."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from auxjax.data.prepare import PREPARED, prepare
from auxjax.errors import AuxjaxError, nearest

# Per-channel mean and standard deviation of the training images / 255, from the published sets.
_MOMENTS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "digits": ((0.305,), (0.376,)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet2012": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class DataSet(NamedTuple):
    """A prepared set: its splits as sources of `{"image": uint8[H, W, C], "label": int}` and what describes them.

    `image_shape` has the config's `image_size` where that is set; `mean` and `std` are per channel, for pixels / 255.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    splits: Mapping[str, Sequence[Any]]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Records(Sequence[Any]):
    """A split as it lies on disk."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Any:
        return self.source[index]

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Returns several at once, which array records read faster than one by one."""
        return self.source.__getitems__(list(indices))


class Subset(Sequence[Any]):
    """The examples of a split at given positions."""

    def __init__(self, source: Records, indices: np.ndarray) -> None:
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self.source[int(self.indices[index])]

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Returns several at once."""
        return self.source.__getitems__([int(self.indices[i]) for i in indices])


def load(config: Mapping[str, Any]) -> DataSet:
    """Returns the set that `config.data` names; digits prepares itself.

    `validation_examples` of the training split become the split "validation", the same ones in every run. Raises
    AuxjaxError, saying how to prepare it, for a set that is not there, and for images or labels that do not fit.
    """
    builder = _builder(config["name"], config["data_dir"])
    features = builder.info.features
    for key in ("image", "label"):
        if key not in features:
            raise AuxjaxError(f"data set {config['name']!r} has no {key!r}; it has: {', '.join(features)}")
    splits: dict[str, Any] = {
        split: _records(config["name"], config["data_dir"], split) for split in builder.info.splits
    }
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
    held_out = config["validation_examples"]
    if held_out:
        if held_out >= len(splits["train"]):
            raise AuxjaxError(
                f"data.validation_examples={held_out}, and the training split has only {len(splits['train'])}"
            )
        order = np.random.default_rng(0).permutation(len(splits["train"]))
        train = splits["train"]
        splits |= {
            "train": Subset(train, np.sort(order[held_out:])),
            "validation": Subset(train, np.sort(order[:held_out])),
        }
    shape, size = features["image"].shape, config["image_size"]
    if None in shape[:2] and not size:
        raise AuxjaxError(
            f"images of {config['name']!r} have different sizes: set data.image_size, as in --config.data.image_size=224"
        )
    image_shape = (size, size, shape[2]) if size else tuple(shape)
    mean, std = _MOMENTS.get(config["name"], ((0.5,) * shape[2], (0.25,) * shape[2]))
    return DataSet(config["name"], features["label"].num_classes, image_shape, splits, mean, std)


def arrays(dataset: DataSet, split: str) -> dict[str, np.ndarray]:
    """Returns a whole split as `{"image": uint8[N, H, W, C], "label": int32[N]}`, resized if the config says so."""
    if split not in dataset.splits:
        raise AuxjaxError(
            f"data set {dataset.name!r} has no split {split!r}{nearest(split, dataset.splits) or ';'} valid: {', '.join(dataset.splits)}"
        )
    source = dataset.splits[split]
    base = source.source if isinstance(source, Subset) else source
    read = _read_all(base, dataset.name, dataset.num_classes)
    if isinstance(source, Subset):
        read = {key: value[source.indices] for key, value in read.items()}
    if read["image"].shape[1:] != dataset.image_shape:
        read = read | {"image": np.stack([resize(image, dataset.image_shape[:2]) for image in read["image"]])}
    return read


def resize(
    image: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """Returns uint8[size[0], size[1], C], the box (left, upper, right, lower) of the image resized bilinearly."""
    from PIL import Image

    planes = [
        Image.fromarray(image[..., c]).resize(size[::-1], Image.Resampling.BILINEAR, box=box)
        for c in range(image.shape[-1])
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def root(data_dir: str) -> Path:
    """Returns where TFDS keeps its sets: `data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser().absolute()


def find(name: str, folder: Path) -> Path | None:
    """Returns the folder of the newest prepared version of a set (`name` or `name/config`), None where there is none."""
    infos = sorted((folder / name).glob("**/dataset_info.json"))
    whole = [info.parent for info in infos if "incomplete" not in str(info)]
    return whole[-1] if whole else None


@functools.lru_cache(maxsize=16)
def _records(name: str, data_dir: str, split: str) -> Records:
    return Records(_builder(name, data_dir).as_data_source(split=split))


@functools.lru_cache(maxsize=4)
def _read_all(source: Records, name: str, num_classes: int) -> dict[str, np.ndarray]:
    examples = [
        e for i in range(0, len(source), 4096) for e in source.__getitems__(range(i, min(i + 4096, len(source))))
    ]
    shapes = {example["image"].shape for example in examples}
    if len(shapes) != 1:
        raise AuxjaxError(
            f"images of {name!r} have {len(shapes)} different shapes: set data.cache='host' and data.image_size"
        )
    labels = np.array([example["label"] for example in examples], np.int32)
    if labels.min() < 0 or labels.max() >= num_classes:
        raise AuxjaxError(
            f"labels of {name!r} run from {labels.min()} to {labels.max()}, and it has {num_classes} classes"
        )
    return {"image": np.stack([example["image"] for example in examples]), "label": labels}


@functools.lru_cache(maxsize=8)
def _builder(name: str, data_dir: str) -> Any:
    folder = root(data_dir)
    found = find(name, folder)
    if found is None and name == "digits":
        found = prepare(name, data_dir)
    if found is None:
        there = sorted(path.name for path in folder.glob("*") if path.is_dir())
        how = (
            f"python experiments/prepare.py --dataset={name}"
            if name in PREPARED
            else "tfds build it there with file_format=array_record"
        )
        close = nearest(name, [*PREPARED, *there]) or ";"
        raise AuxjaxError(f"data set {name!r} is not in {folder}{close} to prepare it: {how}")
    form = json.loads((found / "dataset_info.json").read_text()).get("fileFormat", "tfrecord")
    if form != "array_record":
        raise AuxjaxError(
            f"data set {name!r} in {found} has file format {form!r}; prepare it with file_format='array_record'"
        )
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(str(found))
