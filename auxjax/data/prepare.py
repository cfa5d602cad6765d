"""prepare(): writes a data set as TFDS array records, from files already on this machine, without TensorFlow."""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from auxjax.data.cifar import Arrays, cifar10, cifar100
from auxjax.data.folders import find, root
from auxjax.errors import AuxjaxError, unknown

logger = logging.getLogger("auxjax")
_DEBIAN_FASHION = "/usr/share/datasets/fashion-mnist"


def prepare(name: str, data_dir: str = "", source: str | None = None) -> Path:
    """Writes data set `name` below `data_dir` and returns its folder; does nothing where it is there already.

    digits needs nothing; fashion_mnist reads the IDX files of Debian's dataset-fashion-mnist, or of a folder `source`;
    cifar10 and cifar100 read a published archive `source`, binary or python. The folder appears whole or not at all.
    Raises AuxjaxError for another name, and for files that are missing or not of the published form.
    """
    if name not in PREPARED:
        raise unknown("data set to prepare", name, PREPARED)
    folder = root(data_dir)
    found = find(name, folder)
    if found is None:
        splits, classes = PREPARED[name](source)
        _check(name, splits, classes)
        _write(name, folder, splits, classes)
        found = find(name, folder)
    if found is None:
        raise AuxjaxError(
            f"{folder / name} is a damaged data set without its dataset_info.json: remove it, then prepare it"
        )
    return found


def digits(_source: str | None) -> tuple[dict[str, Arrays], int]:
    """scikit-learn's 1,797 handwritten digits, 8x8 with 17 grey levels (UCI; Alpaydin and Kaynak 1998).

    Every fifth of each class is for testing: 355, which leaves 1,442 for training.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = np.round(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    rank = np.zeros(len(labels), int)
    for label in range(10):
        rank[labels == label] = np.arange((labels == label).sum())
    test = rank % 5 == 4
    return {"train": (images[~test], labels[~test]), "test": (images[test], labels[test])}, 10


def fashion_mnist(source: str | None) -> tuple[dict[str, Arrays], int]:
    """Fashion-MNIST from its four IDX files, gzipped or not (Xiao et al. 2017, arXiv 1708.07747)."""
    folder = Path(source or _DEBIAN_FASHION)
    parts = {"train": "train", "test": "t10k"}
    return {
        split: (_idx(folder, f"{part}-images-idx3-ubyte")[..., None], _idx(folder, f"{part}-labels-idx1-ubyte"))
        for split, part in parts.items()
    }, 10


PREPARED: dict[str, Callable[[str | None], tuple[dict[str, Arrays], int]]] = {
    "digits": digits, "fashion_mnist": fashion_mnist, "cifar10": cifar10, "cifar100": cifar100,
}  # fmt: skip


def _idx(folder: Path, name: str) -> np.ndarray:
    """Returns uint8[...] of an IDX file: two zero bytes, type 8, the rank, the sizes as big-endian int32, the bytes."""
    path = folder / name if (folder / name).is_file() else folder / f"{name}.gz"
    if not path.is_file():
        how = "apt-get install dataset-fashion-mnist, or give --source=FOLDER of the published files"
        raise AuxjaxError(f"no Fashion-MNIST file {path}: {how}")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if data[:3] != b"\0\0\x08":
            raise ValueError(f"it begins with {data[:3].hex()}")
        shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)
    except (OSError, ValueError, IndexError, EOFError, zlib.error) as error:
        raise AuxjaxError(f"{path} is no IDX file of bytes, or it is damaged ({error})") from None


def _check(name: str, splits: Mapping[str, Arrays], classes: int) -> None:
    shape = splits["train"][0].shape[1:]
    for split, (images, labels) in splits.items():
        if len(images) != len(labels) or images.ndim != 4 or images.shape[1:] != shape:
            sizes = f"{list(images.shape)} and {len(labels)} labels"
            raise AuxjaxError(f"the {split} files of {name} hold images {sizes}; expected {[len(labels), *shape]}")
        if len(labels) == 0 or labels.max() >= classes:
            top = f"reach {labels.max()}" if len(labels) else "are none"
            raise AuxjaxError(f"labels in the {split} files of {name} {top}; expected 0 to {classes - 1}")


def _write(name: str, folder: Path, splits: Mapping[str, Arrays], classes: int) -> None:
    """Writes the splits with a TFDS builder, silently; no-one's half-written folder is ever taken for a data set."""
    import tensorflow_datasets as tfds

    logger.info("writing data set %s into %s", name, folder)
    tfds.disable_progress_bar()
    try:
        with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
            offline = tfds.download.DownloadConfig(try_download_gcs=False)
            builder = _builder(name, splits, classes)(data_dir=str(folder), file_format="array_record")
            builder.download_and_prepare(download_dir=downloads, download_config=offline)
    except OSError as error:
        # Another process that prepared the same set at the same time may have been the first to rename its folder.
        if find(name, folder) is None:
            raise AuxjaxError(f"data set {name!r} could not be written to {folder}: {error}") from None
    finally:
        tfds.enable_progress_bar()


def _builder(name: str, splits: Mapping[str, Arrays], classes: int) -> Any:
    """Returns the builder's class; its images are plain bytes, which TFDS can write without TensorFlow."""
    import tensorflow_datasets as tfds

    def info(self: Any) -> Any:
        image = tfds.features.Tensor(shape=splits["train"][0].shape[1:], dtype=np.uint8)
        features = {"image": image, "label": tfds.features.ClassLabel(num_classes=classes)}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def split_generators(self: Any, _manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(*arrays) for split, arrays in splits.items()}

    def generate(self: Any, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": image, "label": int(label)}

    return type(
        "".join(part.title() for part in name.split("_")), (tfds.core.GeneratorBasedBuilder,),
        {
            "name": name, "VERSION": tfds.core.Version("1.0.0"), "_info": info, "_split_generators": split_generators,
            "_generate_examples": generate, "__module__": __name__,
        },
        skip_registration=True,
    )  # fmt: skip
