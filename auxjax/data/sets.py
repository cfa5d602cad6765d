"""Prepared data sets: found by name on disk, checked, described; and whole splits as arrays."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from auxjax.data.folders import find, prepared, root
from auxjax.data.prepare import PREPARED, prepare
from auxjax.data.records import Records, Subset, one_line, resize
from auxjax.errors import AuxjaxError, nearest

# Per-channel mean and standard deviation of the training images / 255: computed here for digits and fashion_mnist
# (a test does it again), else the constants in common use, which are torchvision's for ImageNet.
_MOMENTS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "digits": ((0.305,), (0.376,)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet2012": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
_DEFAULT_MOMENTS = (0.5, 0.25)
_CHUNK = 4096


class DataSet(NamedTuple):
    """A prepared set: its splits as sources of `{"image": uint8[H, W, C], "label": int32}` and what describes them.

    `image_shape` has the config's `image_size` where that is set, while the splits give images as they are stored;
    `mean` and `std` are per channel, for pixels / 255: 0.5 and 0.25 for a set whose own are not known here.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    splits: Mapping[str, Records | Subset]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def split(self, name: str) -> Records | Subset:
        """Returns a split by name; raises AuxjaxError where there is none of it."""
        if name not in self.splits:
            close = nearest(name, self.splits) or ";"
            raise AuxjaxError(f"data set {self.name!r} has no split {name!r}{close} valid: {', '.join(self.splits)}")
        return self.splits[name]


def load(config: Mapping[str, Any]) -> DataSet:
    """Returns the set that `config.data` names; digits prepares itself.

    `validation_examples` of the training split become the split "validation", the same ones in every run. A set
    without "test" is tested on its "validation". Raises AuxjaxError, saying how to prepare it, for a set that is not
    there, and for one that is not of images and classes.
    """
    name, size, held_out = config["name"], config["image_size"], config["validation_examples"]
    splits: dict[str, Records | Subset] = dict(_open(name, _found(name, config["data_dir"])))
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
    if "train" not in splits or "test" not in splits:
        raise AuxjaxError(
            f"data set {name!r} has the splits {', '.join(splits)}; it needs train, and test or validation"
        )
    train = splits["train"]
    assert isinstance(train, Records)
    if held_out >= len(train):
        raise AuxjaxError(f"data.validation_examples={held_out}, and the training split has only {len(train)}")
    if held_out:
        order = np.random.default_rng(0).permutation(len(train))
        splits["train"] = Subset(train, np.sort(order[held_out:]))
        splits["validation"] = Subset(train, np.sort(order[:held_out]))
    shape = train.image_shape
    if None in shape and not size:
        raise AuxjaxError(f"images of {name!r} have different sizes: set data.image_size, as in data.image_size=224")
    image_shape = (size, size, shape[2]) if size else (shape[0], shape[1], shape[2])
    mean, std = moments(name, shape[2])
    return DataSet(name, train.num_classes, image_shape, splits, mean, std)


def moments(name: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean and standard deviation of a set's pixels / 255 by channel."""
    default = (_DEFAULT_MOMENTS[0],) * channels, (_DEFAULT_MOMENTS[1],) * channels
    return _MOMENTS.get(name.split("/")[0], default)


def arrays(dataset: DataSet, split: str) -> dict[str, np.ndarray]:
    """Returns a whole split as `{"image": uint8[N, H, W, C], "label": int32[N]}`, resized to `image_shape`."""
    source = dataset.split(split)
    read = _read_all(source.source if isinstance(source, Subset) else source, dataset.image_shape[:2])
    return {key: value[source.indices] for key, value in read.items()} if isinstance(source, Subset) else dict(read)


@functools.lru_cache(maxsize=4)
def _read_all(records: Records, size: tuple[int, int]) -> Mapping[str, np.ndarray]:
    if None in records.image_shape:
        raise AuxjaxError(f"images of {records.name!r} have different sizes: set data.cache='host'")
    images = np.empty((len(records), *size, records.image_shape[2]), np.uint8)
    labels = np.empty(len(records), np.int32)
    for start in range(0, len(records), _CHUNK):
        chunk = range(start, min(start + _CHUNK, len(records)))
        for i, example in zip(chunk, records.__getitems__(chunk), strict=True):
            images[i], labels[i] = resize(example["image"], size), example["label"]
    images.flags.writeable = labels.flags.writeable = False  # every run of this process shares them
    return {"image": images, "label": labels}


def _found(name: str, data_dir: str) -> Path:
    """Returns a prepared set's folder; digits is prepared if it is not."""
    folder = root(data_dir)
    found = find(name, folder) or (prepare(name, data_dir) if name == "digits" else None)
    if found is not None:
        return found
    if name in PREPARED:
        how = f"python experiments/prepare.py --dataset={name}" + (f" --data_dir={data_dir}" if data_dir else "")
        how += " --source=ARCHIVE.tar.gz" * name.startswith("cifar")
        raise AuxjaxError(f"data set {name!r} is not in {folder}; to prepare it: {how}")
    import tensorflow_datasets as tfds

    there, known = prepared(folder), tfds.list_builders(with_community_datasets=False)
    if name.split("/")[0] in known:
        how = f"tfds build {name} --file_format=array_record --data_dir={folder} (with pip install 'auxjax[tf]')"
        raise AuxjaxError(f"data set {name!r} is not in {folder}; to prepare it: {how}")
    close = nearest(name, {*PREPARED, *there, *known}) or ";"
    valid = ", ".join(sorted({*PREPARED, *there}))
    raise AuxjaxError(f"data set {name!r} is not in {folder}{close} valid: {valid}, or any of TFDS's once prepared")


@functools.lru_cache(maxsize=8)
def _open(name: str, folder: Path) -> dict[str, Records]:
    """Returns the splits in a set's folder.

    From the folder, not by TFDS's name: for a name it knows, TFDS would want its own code's version, and download it.
    """
    import tensorflow_datasets as tfds

    try:
        form = json.loads((folder / "dataset_info.json").read_text()).get("fileFormat", "tfrecord")
        builder = tfds.builder_from_directory(str(folder))
        sources = {} if form != "array_record" else {s: builder.as_data_source(split=s) for s in builder.info.splits}
        lengths = {split: len(source) for split, source in sources.items()}
    except ImportError:
        raise
    except Exception as error:  # JSON's, protobuf's, array_record's or TFDS's own, for whatever is damaged
        raise AuxjaxError(
            f"data set {name!r} in {folder} is damaged ({one_line(error)}): remove it, then prepare it"
        ) from None
    if form != "array_record":
        raise AuxjaxError(
            f"data set {name!r} in {folder} has file format {form!r}; prepare it with --file_format=array_record"
        )
    features = dict(getattr(builder.info.features, "items", dict)())
    image, label = features.get("image"), features.get("label")
    shape, classes = getattr(image, "shape", None), getattr(label, "num_classes", None)
    if shape is None or len(shape) != 3 or getattr(image, "np_dtype", None) != np.uint8 or classes is None:
        raise AuxjaxError(f"{name!r} needs a uint8 image [H, W, C] and a class label; it has {one_line(features)}")
    return {split: Records(name, source, tuple(shape), classes) for split, source in sources.items() if lengths[split]}
