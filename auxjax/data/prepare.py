"""prepare(): writes a data set as TFDS array records, from files already on this machine, without TensorFlow."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from auxjax.errors import AuxjaxError, unknown

Arrays = tuple[np.ndarray, np.ndarray]
_FASHION_FOLDERS = ("/usr/share/dataset-fashion-mnist", "/usr/share/datasets/fashion-mnist")


def prepare(name: str, data_dir: str = "", source: str | None = None) -> Path:
    """Writes data set `name` below `data_dir` and returns its folder; does nothing where it is there already.

    digits needs nothing; fashion_mnist reads the IDX files of Debian's dataset-fashion-mnist, or a folder `source`;
    cifar10 and cifar100 read their published binary archive `source`. Raises AuxjaxError for another name and for
    files that are missing or not of the published form.
    """
    from auxjax.data.sets import find, root

    if name not in PREPARED:
        raise unknown("data set to prepare", name, PREPARED)
    folder = root(data_dir)
    found = find(name, folder)
    if found is None:
        splits, classes = PREPARED[name](source)
        _write(name, folder, splits, classes)
        found = find(name, folder)
    assert found is not None
    return found


def digits(_source: str | None) -> tuple[dict[str, Arrays], int]:
    """scikit-learn's 1,797 handwritten digits, 8x8 with 17 grey levels; every fifth of each class is for testing."""
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
    folders = [Path(source)] if source else [Path(p) for p in _FASHION_FOLDERS]
    for folder in folders:
        if (folder / "t10k-labels-idx1-ubyte").exists() or (folder / "t10k-labels-idx1-ubyte.gz").exists():
            parts = {"train": "train", "test": "t10k"}
            return {
                split: (_idx(folder, f"{part}-images-idx3-ubyte")[..., None], _idx(folder, f"{part}-labels-idx1-ubyte"))
                for split, part in parts.items()
            }, 10
    raise AuxjaxError(
        f"no Fashion-MNIST IDX files in {' or '.join(map(str, folders))}: apt-get install dataset-fashion-mnist, or give --source=FOLDER"
    )


def cifar10(source: str | None) -> tuple[dict[str, Arrays], int]:
    """CIFAR-10 from cifar-10-binary.tar.gz (Krizhevsky 2009)."""
    archive = _archive(source, "cifar10", "cifar-10-binary.tar.gz")
    train = [f"data_batch_{i}.bin" for i in range(1, 6)]
    return {"train": _cifar(archive, train, 1), "test": _cifar(archive, ["test_batch.bin"], 1)}, 10


def cifar100(source: str | None) -> tuple[dict[str, Arrays], int]:
    """CIFAR-100 with its fine labels from cifar-100-binary.tar.gz (Krizhevsky 2009)."""
    archive = _archive(source, "cifar100", "cifar-100-binary.tar.gz")
    return {"train": _cifar(archive, ["train.bin"], 2), "test": _cifar(archive, ["test.bin"], 2)}, 100


PREPARED: dict[str, Callable[[str | None], tuple[dict[str, Arrays], int]]] = {
    "digits": digits, "fashion_mnist": fashion_mnist, "cifar10": cifar10, "cifar100": cifar100,
}  # fmt: skip


def _idx(folder: Path, name: str) -> np.ndarray:
    path = folder / name if (folder / name).exists() else folder / f"{name}.gz"
    try:
        data = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
        shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)
    except (OSError, ValueError, IndexError, EOFError) as error:
        raise AuxjaxError(f"{path} is no IDX file of bytes ({error})") from None


def _archive(source: str | None, name: str, file: str) -> Path:
    if source is None or not Path(source).is_file():
        raise AuxjaxError(
            f"{name} is read from {file}: give --source=PATH/{file}" + (f"; no file {source!r}" if source else "")
        )
    return Path(source)


def _cifar(archive: Path, members: list[str], label_bytes: int) -> Arrays:
    """Reads CIFAR's binary records: the label bytes, the last of them the fine label, then 3 x 32 x 32 pixels."""
    try:
        with tarfile.open(archive) as tar:
            files = {Path(member.name).name: member for member in tar.getmembers() if member.isfile()}
            data = b"".join(tar.extractfile(files[m]).read() for m in members)  # type: ignore[union-attr]
        records = np.frombuffer(data, np.uint8).reshape(-1, label_bytes + 3072)
    except (KeyError, ValueError, tarfile.TarError, OSError, EOFError) as error:
        raise AuxjaxError(
            f"{archive} is not the published binary archive with {', '.join(members)} ({error})"
        ) from None
    images = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, label_bytes - 1].astype(np.int64)


def _write(name: str, folder: Path, splits: Mapping[str, Arrays], classes: int) -> None:
    """Writes the splits with a TFDS builder, which makes the folder whole or not at all."""
    import tensorflow_datasets as tfds

    def info(self: Any) -> Any:
        shape = splits["train"][0].shape[1:]
        features = {
            "image": tfds.features.Tensor(shape=shape, dtype=np.uint8),
            "label": tfds.features.ClassLabel(num_classes=classes),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def split_generators(self: Any, _manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(*arrays) for split, arrays in splits.items()}

    def generate(self: Any, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": image, "label": int(label)}

    builder = type(
        "".join(part.title() for part in name.split("_")), (tfds.core.GeneratorBasedBuilder,),
        {
            "name": name, "VERSION": tfds.core.Version("1.0.0"), "_info": info, "_split_generators": split_generators,
            "_generate_examples": generate, "__module__": __name__,
        },
        skip_registration=True,
    )  # fmt: skip
    os.makedirs(folder, exist_ok=True)
    builder(data_dir=str(folder), file_format="array_record").download_and_prepare()
