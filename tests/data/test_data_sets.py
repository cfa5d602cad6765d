"""load() finds a set by its name, makes of it what the config asks, and says in one line what is wrong with one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auxjax import data
from auxjax.data.folders import find, root
from auxjax.data.records import Subset, resize
from auxjax.data.sets import arrays
from auxjax.errors import AuxjaxError
from tests.data.built import build, counted, image_features, images, loaded, one_line, section

# What is in the sets


def test_digits_are_those_of_scikit_learn_split_by_class(data_dir: str) -> None:
    from sklearn.datasets import load_digits

    want = load_digits()
    train, test = (loaded(data_dir, "digits", split) for split in ("train", "test"))
    assert train["image"].dtype == np.uint8 and train["label"].dtype == np.int32
    assert train["image"].shape == (1442, 8, 8, 1) and test["image"].shape == (355, 8, 8, 1)
    levels = np.round(np.arange(17) * 255 / 16).astype(np.uint8)
    both = counted(train["image"], train["label"]) + counted(test["image"], test["label"])
    assert both == counted(levels[want.images.astype(int)], want.target)
    shares = np.bincount(test["label"]) / np.bincount(want.target)
    assert (np.abs(shares - 0.2) < 0.01).all()


def test_digits_are_prepared_on_first_use_silently(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert find("digits", tmp_path) is None
    data.load(section(tmp_path))
    assert find("digits", tmp_path) == tmp_path / "digits" / "1.0.0"
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
    assert capfd.readouterr().out == ""


def test_the_moments_of_digits_are_those_of_their_training_images(data_dir: str) -> None:
    dataset = data.load(section(data_dir))
    pixels = arrays(dataset, "train")["image"] / 255
    np.testing.assert_allclose([pixels.mean(), pixels.std()], [*dataset.mean, *dataset.std], atol=5e-4)


def test_a_set_that_tfds_prepared_itself_loads_by_the_same_name(tmp_path: Path) -> None:
    """The official CIFAR-100: PNG images, ids, coarse labels beside the fine ones; and its version is the newer one."""
    import tensorflow_datasets as tfds

    other = images(3, 32, 32, seed=1)
    build(tmp_path, "cifar100", image_features(32, 32, 100), {"train": other, "test": other})
    features = image_features(32, 32, 100) | {
        "id": tfds.features.Text(), "coarse_label": tfds.features.ClassLabel(num_classes=20),
    }  # fmt: skip
    examples = [{**e, "id": f"train_{i}", "coarse_label": 3} for i, e in enumerate(images(6, 32, 32))]
    build(tmp_path, "cifar100", features, {"train": examples, "test": examples[:2]}, version="3.0.2")
    assert data.prepare("cifar100", str(tmp_path)) == tmp_path / "cifar100" / "3.0.2"
    got = loaded(tmp_path, "cifar100", "train")
    want = np.stack([np.asarray(e["image"]) for e in examples])
    assert counted(got["image"], got["label"]) == counted(want, np.array([e["label"] for e in examples]))


def test_versions_are_ordered_as_numbers_and_configs_are_named(tmp_path: Path) -> None:
    for path in ("a/9.0.0", "a/10.0.0", "a/incomplete.XYZ_11.0.0", "b/one/1.0.0", "b/two/1.0.0"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "dataset_info.json").touch()
    assert find("a", tmp_path) == tmp_path / "a" / "10.0.0"
    assert find("a/9.0.0", tmp_path) == tmp_path / "a" / "9.0.0"
    assert find("b/two", tmp_path) == tmp_path / "b" / "two" / "1.0.0"
    with pytest.raises(AuxjaxError, match="choose b/one or b/two"):
        find("b", tmp_path)
    for name in ("", ".", "..", "a/..", "c", "*"):
        assert find(name, tmp_path) is None


def test_the_folder_is_the_argument_then_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert root("") == Path.home() / "tensorflow_datasets"
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert root("") == tmp_path and root("~/other") == Path.home() / "other"
    with pytest.raises(AuxjaxError, match="no local folder"):
        root("gs://bucket/data")


# What load() makes of a set


def test_validation_examples_come_off_the_training_split_the_same_in_every_run(data_dir: str) -> None:
    whole = loaded(data_dir, "digits", "train")
    parts = [loaded(data_dir, "digits", split, validation_examples=200) for split in ("train", "validation")]
    assert [len(part["label"]) for part in parts] == [1242, 200]
    assert counted(**rename(whole)) == counted(**rename(parts[0])) + counted(**rename(parts[1]))
    again = loaded(data_dir, "digits", "validation", validation_examples=200)
    np.testing.assert_array_equal(again["image"], parts[1]["image"])
    held_out = data.load(section(data_dir, validation_examples=200)).splits["validation"]
    assert isinstance(held_out, Subset) and np.ptp(held_out.indices) > 1200, "taken at random, not off one end"
    test = loaded(data_dir, "digits", "test", validation_examples=200)
    np.testing.assert_array_equal(test["label"], loaded(data_dir, "digits", "test")["label"])


def rename(read: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"images": read["image"], "labels": read["label"]}


def test_image_size_resizes_bilinearly(data_dir: str) -> None:
    dataset = data.load(section(data_dir, image_size=16))
    assert dataset.image_shape == (16, 16, 1)
    small, large = loaded(data_dir, "digits", "test"), arrays(dataset, "test")["image"]
    assert large.shape == (355, 16, 16, 1) and large.dtype == np.uint8
    # Twice the size: an inner pixel is 9/16, 3/16, 3/16 and 1/16 of the four it lies between.
    x = small["image"].astype(float)[..., 0]
    want = (9 * x[:, 1:-1, 1:-1] + 3 * x[:, :-2, 1:-1] + 3 * x[:, 1:-1, :-2] + x[:, :-2, :-2]) / 16
    np.testing.assert_allclose(large[:, 2:-2:2, 2:-2:2, 0], want, atol=1.01)


def test_colours_stay_in_their_channels_when_resized(tmp_path: Path) -> None:
    build(tmp_path, "own", image_features(4, 6), {"train": images(4, 4, 6), "validation": images(4, 4, 6, seed=1)})
    dataset = data.load(section(tmp_path, name="own", image_size=12))
    means = arrays(dataset, "test")["image"].mean((1, 2))
    raw = np.stack([dataset.splits["test"][i]["image"] for i in range(4)])
    want = {np.asarray(e["image"]).tobytes() for e in images(4, 4, 6, seed=1)}
    assert {image.tobytes() for image in raw} == want, "without a test split, validation is tested on"
    assert resize(raw[0], (8, 3)).shape == (8, 3, 3)
    np.testing.assert_allclose(means, raw.mean((1, 2)), atol=15)
    assert dataset.mean == (0.5,) * 3 and dataset.std == (0.25,) * 3


def test_arrays_are_shared_and_read_only(data_dir: str) -> None:
    first, second = (loaded(data_dir, "digits", "train") for _ in range(2))
    assert np.shares_memory(first["image"], second["image"])
    with pytest.raises(ValueError, match="read-only"):
        first["image"][0] = 0


# What is said when something is wrong


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "cifar10"}, "prepare.py --dataset=cifar10 --data_dir=.* --source=ARCHIVE"),
        ({"name": "fashion_mnist"}, "prepare.py --dataset=fashion_mnist --data_dir"),
        ({"name": "svhn_cropped"}, "tfds build svhn_cropped --file_format=array_record"),
        ({"name": "digts"}, "data set 'digts' is not in .*; did you mean 'digits'"),
        ({"name": "fashion_mnis"}, "did you mean 'fashion_mnist'"),
        ({"name": ""}, "data set '' is not in .*; valid: cifar10"),
        ({"validation_examples": 1442}, "validation_examples=1442, and the training split has only 1442"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(changes: dict[str, Any], message: str, data_dir: str) -> None:
    with pytest.raises(AuxjaxError, match=message) as error:
        data.load(section(data_dir, **changes))
    one_line(error)


def test_an_unknown_split_is_one_line(data_dir: str) -> None:
    with pytest.raises(AuxjaxError, match="no split 'tests'; did you mean 'test'") as error:
        arrays(data.load(section(data_dir)), "tests")
    one_line(error)


def test_sets_of_another_form_are_one_line(tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    text = {"image": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}
    build(tmp_path, "text", text, {"train": [{"image": "a", "label": 0}], "test": [{"image": "a", "label": 0}]})
    number = image_features(4, 4) | {"label": tfds.features.Scalar(np.int64)}
    build(tmp_path, "number", number, {"train": images(2, 4, 4), "test": images(2, 4, 4)})
    build(tmp_path, "records", image_features(4, 4), {"train": images(2, 4, 4)})
    described = tmp_path / "records" / "1.0.0" / "dataset_info.json"
    described.write_text(described.read_text().replace("array_record", "tfrecord"))
    build(tmp_path, "alone", image_features(4, 4), {"train": images(2, 4, 4)})
    sizes = images(2, 4, 4) + images(2, 5, 7)
    build(tmp_path, "sizes", image_features(None, None), {"train": sizes, "test": sizes})
    messages = {
        "text": "needs a uint8 image", "number": "and a class label; it has", "records": "has file format 'tfrecord'",
        "alone": "has the splits train; it needs train, and test", "sizes": "different sizes: set data.image_size",
    }  # fmt: skip
    for name, message in messages.items():
        with pytest.raises(AuxjaxError, match=message) as error:
            data.load(section(tmp_path, name=name))
        one_line(error)
    with pytest.raises(AuxjaxError, match=r"different sizes: set data.cache='host'") as error:
        loaded(tmp_path, "sizes", "train", image_size=4)
    one_line(error)


def edit_features(folder: Path, edit: Callable[[str], str]) -> None:
    path = next(folder.glob("own/*/features.json"))
    path.write_text(edit(path.read_text()))


def test_examples_that_are_not_as_declared_are_one_line(tmp_path: Path) -> None:
    """The set's own description is changed after it was written, as a wrong builder would have it."""
    build(tmp_path, "own", image_features(4, 6), {"train": images(4, 4, 6), "test": images(4, 4, 6)})
    edit_features(tmp_path, lambda text: text.replace('"numClasses": "4"', '"numClasses": "3"'))
    with pytest.raises(AuxjaxError, match=r"label 3; the set declares .* labels 0 to 2") as error:
        loaded(tmp_path, "own", "train")
    one_line(error)
    again = tmp_path / "again"
    build(again, "own", image_features(4, 6), {"train": images(4, 4, 6), "test": images(4, 4, 6)})
    edit_features(again, lambda text: re.sub(r'("dimensions": \[\s*)"4"', r'\1"5"', text))
    with pytest.raises(AuxjaxError, match=re.escape("image [4, 6, 3] and label")) as error:
        loaded(again, "own", "train")
    one_line(error)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("*train*", flip_a_bit),
        ("*train*", Path.unlink),
        ("*train*", lambda path: path.write_bytes(b"")),
        ("features.json", Path.unlink),
        ("dataset_info.json", lambda path: path.write_text("{")),
    ],
    ids=["bit", "no shard", "empty shard", "no features", "half json"],
)
def test_a_damaged_set_is_one_line(file: str, damage: Callable[[Path], None], data_dir: str, tmp_path: Path) -> None:
    shutil.copytree(Path(data_dir) / "digits", tmp_path / "digits")
    damage(next((tmp_path / "digits" / "1.0.0").glob(file)))
    with pytest.raises(AuxjaxError, match=r"data set 'digits' .*is damaged .*: remove it, then prepare it") as error:
        loaded(tmp_path, "digits", "train")
    one_line(error)


def test_a_set_without_its_description_is_not_taken_for_one(data_dir: str, tmp_path: Path) -> None:
    shutil.copytree(Path(data_dir) / "digits", tmp_path / "digits")
    (tmp_path / "digits" / "1.0.0" / "dataset_info.json").unlink()
    with pytest.raises(AuxjaxError, match=r"damaged data set without its dataset_info.json: remove it"):
        data.load(section(tmp_path))
