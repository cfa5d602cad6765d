"""prepare() writes what was published, whole or not at all, and says in one line what is wrong with its files."""

from __future__ import annotations

import collections
import gzip
import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auxjax import data
from auxjax.data import sets
from auxjax.data.folders import find
from auxjax.errors import AuxjaxError
from tests.data.built import counted, loaded, one_line, section

FASHION = Path("/usr/share/datasets/fashion-mnist")


def write_idx(path: Path, array: np.ndarray, zipped: bool) -> None:
    content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()
    path.with_name(path.name + ".gz" * zipped).write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_what_its_files_hold(tmp_path: Path) -> None:
    """The first examples of the real files, cut out by hand, once zipped and once not."""
    want = {}
    for split, part, count in (("train", "train", 300), ("test", "t10k", 100)):
        pixels = gzip.decompress((FASHION / f"{part}-images-idx3-ubyte.gz").read_bytes())[16 : 16 + count * 784]
        labels = gzip.decompress((FASHION / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8 : 8 + count]
        want[split] = (np.frombuffer(pixels, np.uint8).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8))
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", want[split][0], zipped=split == "test")
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", want[split][1], zipped=split == "train")
    data.prepare("fashion_mnist", str(tmp_path), str(tmp_path))
    for split in want:
        got = loaded(tmp_path, "fashion_mnist", split)
        assert counted(got["image"], got["label"]) == counted(*want[split])
    assert got["image"].shape == (100, 28, 28, 1)


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist_needs_no_source() -> None:
    splits, classes = data.PREPARED["fashion_mnist"](None)
    assert {split: images.shape for split, (images, _) in splits.items()} == {
        "train": (60000, 28, 28, 1), "test": (10000, 28, 28, 1),
    }  # fmt: skip
    assert (np.bincount(splits["train"][1]) == 6000).all() and classes == 10
    moments = [splits["train"][0].mean() / 255, splits["train"][0].std() / 255]
    np.testing.assert_allclose(moments, np.ravel(sets._MOMENTS["fashion_mnist"]), atol=5e-4)


def cifar_parts(name: str) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Random pixels uint8[N, 3072] in the published order (red, green and blue planes), coarse and fine labels."""
    rng = np.random.default_rng(0)
    parts = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"] if name == "cifar10" else ["train", "test"]
    classes = 10 if name == "cifar10" else 100
    return {
        part: (rng.integers(0, 256, (8, 3072), np.uint8), rng.integers(0, 20, 8), rng.integers(0, classes, 8))
        for part in parts
    }


def cifar_archive(path: Path, name: str, python: bool, change: Callable[[Any], Any] = lambda content: content) -> str:
    """Writes what cs.toronto.edu publishes, in small: NumPy 1's name for its module, text as bytes."""
    with tarfile.open(path, "w:gz") as tar:
        for part, (pixels, coarse, fine) in cifar_parts(name).items():
            if python:
                labels = {b"labels": fine.tolist()}
                if name == "cifar100":
                    labels = {b"fine_labels": fine.tolist(), b"coarse_labels": coarse.tolist()}
                fields = {b"data": pixels, **labels, b"batch_label": b"batch", b"filenames": [b"a.png"] * 8}
                content = pickle.dumps(fields, protocol=2).replace(b"numpy._core", b"numpy.core")
            else:
                columns = [fine] if name == "cifar10" else [coarse, fine]
                content = np.column_stack([*columns, pixels]).astype(np.uint8).tobytes()
            member = tarfile.TarInfo(f"{name}-files/{part}" + ("" if python else ".bin"))
            content = change(content)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


@pytest.mark.parametrize("python", [False, True], ids=["binary", "python"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_what_its_archive_holds(name: str, python: bool, tmp_path: Path) -> None:
    """Each pixel is looked up by the published rule: plane by plane, then row by row."""
    data.prepare(name, str(tmp_path), cifar_archive(tmp_path / "cifar.tar.gz", name, python))
    want: dict[str, list[tuple[bytes, int]]] = {"train": [], "test": []}
    for part, (pixels, _, fine) in cifar_parts(name).items():
        for row, label in zip(pixels, fine, strict=True):
            image = bytes(row[c * 1024 + y * 32 + x] for y in range(32) for x in range(32) for c in range(3))
            want["test" if part.startswith("test") else "train"].append((image, int(label)))
    for split, examples in want.items():
        got = loaded(tmp_path, name, split)
        assert counted(got["image"], got["label"]) == collections.Counter(examples)
    assert data.load(section(tmp_path, name=name)).num_classes == (10 if name == "cifar10" else 100)


class Malicious:
    """What a pickle may do where nothing forbids it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_something_does_not(tmp_path: Path) -> None:
    content = pickle.dumps({b"data": Malicious(tmp_path / "ran")}, protocol=2)
    source = cifar_archive(tmp_path / "cifar.tar.gz", "cifar10", True, lambda _: content)
    with pytest.raises(AuxjaxError, match="asks for"):
        data.prepare("cifar10", str(tmp_path), source)
    assert not (tmp_path / "ran").exists()
    pickle.loads(content)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("python", [False, True], ids=["binary", "python"])
@pytest.mark.parametrize(
    "change",
    [lambda c: c[:-7], lambda c: b"", lambda c: b"\xff" * 3073 * 3074],
    ids=["short", "empty", "labels of 255"],
)
def test_a_damaged_member_of_an_archive_is_one_line(
    change: Callable[[bytes], bytes], python: bool, name: str, tmp_path: Path
) -> None:
    source = cifar_archive(tmp_path / "cifar.tar.gz", name, python, change)
    with pytest.raises(AuxjaxError, match=r"damaged|labels in the train files of cifar\d+ (reach|are none)") as error:
        data.prepare(name, str(tmp_path), source)
    one_line(error)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("size", [0, 10, 3000])
def test_a_damaged_archive_is_one_line(size: int, tmp_path: Path) -> None:
    whole = Path(cifar_archive(tmp_path / "whole.tar.gz", "cifar10", False)).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[:size])
    for name in ("cifar10", "cifar100"):
        with pytest.raises(AuxjaxError, match=r"is not cifar-.* as published, or it is damaged") as error:
            data.prepare(name, str(tmp_path), str(tmp_path / "cut.tar.gz"))
        one_line(error)
    with pytest.raises(AuxjaxError, match=r"is not cifar-100-.* as published"):
        data.prepare("cifar100", str(tmp_path), str(tmp_path / "whole.tar.gz"))
    with pytest.raises(AuxjaxError, match="give --source=FILE; no file 'absent'"):
        data.prepare("cifar100", str(tmp_path), "absent")


def test_damaged_idx_files_are_one_line(tmp_path: Path) -> None:
    source, labels = tmp_path / "source", np.arange(6, dtype=np.uint8)
    source.mkdir()
    with pytest.raises(AuxjaxError, match="apt-get install dataset-fashion-mnist"):
        data.prepare("fashion_mnist", str(tmp_path), str(source))

    def write(train_images: int = 6, labels: np.ndarray = labels, edge: int = 28) -> None:
        for part, count in (("train", train_images), ("t10k", 6)):
            write_idx(source / f"{part}-images-idx3-ubyte", np.zeros((count, 28, edge), np.uint8), True)
            write_idx(source / f"{part}-labels-idx1-ubyte", labels, True)

    def expect(message: str) -> None:
        with pytest.raises(AuxjaxError, match=message) as error:
            data.prepare("fashion_mnist", str(tmp_path), str(source))
        one_line(error)
        assert not (tmp_path / "fashion_mnist").exists()

    write(train_images=5)
    expect(r"the train files of fashion_mnist hold images \[5, 28, 28, 1\] and 6 labels; expected \[6, 28, 28, 1\]")
    write(labels=labels + 5)
    expect("labels in the train files of fashion_mnist reach 10; expected 0 to 9")
    write()
    path = source / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    float_type = gzip.compress(b"\0\0\x0d" + gzip.decompress(whole)[3:])
    for damaged in (whole[:40], whole[:-9], whole[:20] + b"\0\0\0" + whole[23:], b"", float_type):
        path.write_bytes(damaged)
        expect("train-images-idx3-ubyte.gz is no IDX file of bytes, or it is damaged")


class Racing(np.ndarray):
    """Images during whose writing something else happens."""

    during: Callable[[], Any]

    def __iter__(self) -> Any:
        type(self).during()
        return iter(np.asarray(self))


def racing_digits(during: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    splits, classes = data.PREPARED["digits"](None)
    images, labels = splits["train"]
    Racing.during = staticmethod(during)
    slow = {"train": (images.view(Racing), labels), "test": splits["test"]}
    monkeypatch.setitem(data.PREPARED, "digits", lambda _: (slow, classes))


def test_two_processes_may_prepare_the_same_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them writes the whole set while the other is in the middle of it."""

    def other() -> None:
        monkeypatch.undo()
        data.prepare("digits", str(tmp_path))

    racing_digits(other, monkeypatch)
    assert data.prepare("digits", str(tmp_path)) == tmp_path / "digits" / "1.0.0"
    assert len(loaded(tmp_path, "digits", "train")["label"]) == 1442
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_an_interrupted_preparation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    racing_digits(interrupt, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        data.prepare("digits", str(tmp_path))
    assert find("digits", tmp_path) is None and not [path for path in tmp_path.rglob("*") if path.is_file()]
    monkeypatch.undo()
    assert len(loaded(tmp_path, "digits", "train")["label"]) == 1442


def test_what_a_killed_preparation_leaves_is_not_taken_for_a_set(data_dir: str, tmp_path: Path) -> None:
    shutil.copytree(Path(data_dir) / "digits" / "1.0.0", tmp_path / "digits" / "incomplete.ABCDEF_1.0.0")
    assert find("digits", tmp_path) is None
    assert data.prepare("digits", str(tmp_path)) == tmp_path / "digits" / "1.0.0"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AuxjaxError, match="could not be written") as error:
        data.prepare("digits", str(tmp_path / "file"))
    one_line(error)


def test_preparing_twice_does_nothing(data_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(data.PREPARED, "digits", lambda _: pytest.fail("read again"))
    folder = data.prepare("digits", data_dir)
    assert json.loads((folder / "dataset_info.json").read_text())["fileFormat"] == "array_record"
    with pytest.raises(AuxjaxError, match="did you mean 'cifar10' or 'cifar100'"):
        data.prepare("cifar", data_dir)
