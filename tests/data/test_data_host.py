"""From disk: the same examples as on the device, read ahead, with a position that is not."""

from __future__ import annotations

import collections
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auxjax import data
from auxjax.data.host import centre_crop, random_resized_crop
from auxjax.errors import AuxjaxError
from tests.data.built import build, image_features, images, section


def pipeline(data_dir: Any, seed: int = 0, **changes: Any) -> data.Pipeline:
    changed = section(data_dir, **{"cache": "host", "batch_size": 32, "eval_batch_size": 100} | changes)
    return data.open_pipeline(data.load(changed), changed, seed)


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A set of ten examples."""
    folder = tmp_path_factory.mktemp("ten")
    build(folder, "ten", image_features(4, 6), {"train": images(10, 4, 6), "test": images(7, 4, 6, seed=1)})
    return str(folder)


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Images of different sizes: red is the column and green the row, as shares of width and height."""
    from PIL import Image

    def ramp(height: int, width: int) -> Any:
        columns, rows = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
        pixels = np.stack([columns, rows, np.zeros((height, width))], axis=-1)
        return Image.fromarray(np.round(pixels * 255).astype(np.uint8))

    examples = [{"image": ramp(h, w), "label": 1} for h, w in [(60, 80), (80, 60), (64, 64), (40, 90)]]
    folder = tmp_path_factory.mktemp("sizes")
    build(folder, "sizes", image_features(None, None), {"train": examples, "test": examples})
    return str(folder)


def equal(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert got.keys() == want.keys()
    for key in want:
        np.testing.assert_array_equal(got[key], want[key])


# Training


def test_every_epoch_is_each_example_once_in_a_new_order(ten: str) -> None:
    """Batches of four from ten examples: the third spans two epochs."""
    batches = pipeline(ten, name="ten", batch_size=4)
    seen = [
        (image.tobytes(), int(label))
        for _ in range(15)
        for batch in [next(batches)]
        for image, label in zip(batch["image"], batch["label"], strict=True)
    ]
    want = {(np.asarray(e["image"]).tobytes(), e["label"]) for e in images(10, 4, 6)}
    epochs = [seen[i : i + 10] for i in range(0, 60, 10)]
    assert all(set(epoch) == want for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_batches_are_bytes_and_int32(data_dir: str) -> None:
    batch = next(pipeline(data_dir))
    assert {k: (v.shape, str(v.dtype)) for k, v in batch.items()} == {
        "image": ((32, 8, 8, 1), "uint8"), "label": ((32,), "int32"),
    }  # fmt: skip
    assert not pipeline(data_dir).resident("train")


def test_a_seed_gives_one_order_and_another_another(data_dir: str) -> None:
    equal(next(pipeline(data_dir, seed=3)), next(pipeline(data_dir, seed=3)))
    firsts = [next(pipeline(data_dir, seed=seed))["image"].tobytes() for seed in (-1, 3, 4, 2**31, 2**32 - 2)]
    assert len(set(firsts)) == 5


@pytest.mark.parametrize("handed_out", [0, 1, 2, 50])
def test_a_restored_position_goes_on_with_the_same_batches(handed_out: int, data_dir: str) -> None:
    """The position is taken after the threads have had time to read ahead, and again in the middle of an epoch."""
    whole, resumed = pipeline(data_dir, seed=5), pipeline(data_dir, seed=5)
    for _ in range(handed_out):
        next(whole)
    time.sleep(0.1)
    state = json.loads(json.dumps(whole.state()))
    want = [next(whole) for _ in range(4)]
    for again in (resumed, whole):
        again.restore(state)
        for batch in want:
            equal(next(again), batch)


def test_validation_examples_are_not_trained_on(ten: str) -> None:
    batches = pipeline(ten, name="ten", batch_size=6, validation_examples=4)
    trained = {image.tobytes() for image in next(batches)["image"]}
    (held_out,) = batches.evaluation("validation")
    assert len(trained) == 6 and held_out["mask"].sum() == 4
    assert not trained & {image.tobytes() for image in held_out["image"][:4]}


@pytest.mark.slow
def test_worker_processes_give_the_same_batches_and_resume(data_dir: str) -> None:
    threads, workers = pipeline(data_dir), pipeline(data_dir, num_workers=1)
    want = [next(threads) for _ in range(6)]
    for batch in want[:3]:
        equal(next(workers), batch)
    resumed = pipeline(data_dir, num_workers=1)
    resumed.restore(json.loads(json.dumps(workers.state())))
    for batch in want[3:]:
        equal(next(resumed), batch)
    with pytest.raises(AuxjaxError, match=r"saved with data.num_workers=1: resume it so, not with 0"):
        threads.restore(workers.state())


# Evaluation


@pytest.mark.parametrize("image_size", [0, 12])
@pytest.mark.parametrize("split", ["test", "train", "validation"])
def test_evaluation_is_that_of_the_device(split: str, image_size: int, data_dir: str) -> None:
    changes = {"image_size": image_size, "validation_examples": 150}
    host, device = (pipeline(data_dir, cache=cache, **changes) for cache in ("host", "device"))
    resident = device.resident(split)
    for got, want in zip(host.evaluation(split), device.evaluation(split), strict=True):
        gathered = {name: array[want["index"]] for name, array in resident.items()}
        assert got["image"].shape[1] == (image_size or 8)
        equal(got, gathered | {"mask": want["mask"]})


def test_training_batches_of_one_size_are_resized_as_on_the_device(data_dir: str) -> None:
    host, device = (pipeline(data_dir, cache=cache, image_size=12, batch_size=1442) for cache in ("host", "device"))
    (got, want) = next(host), device.resident("train")
    counts = [collections.Counter(map(bytes, some["image"].reshape(1442, -1))) for some in (got, want)]
    assert counts[0] == counts[1]


# Images of different sizes


def test_images_of_different_sizes_are_cut_at_the_centre_for_evaluation(sizes: str) -> None:
    """Red and green tell which shares of an image were kept: 7/8 of the shorter side, about the middle."""
    (batch,) = pipeline(sizes, name="sizes", image_size=16, batch_size=2, eval_batch_size=4).evaluation("test")
    assert batch["image"].shape == (4, 16, 16, 3)
    for image in batch["image"]:
        shares = [image[8, :, 0] / 255, image[:, 8, 1] / 255]
        for share in shares:
            np.testing.assert_allclose(share + share[::-1], 1, atol=0.02)
        spans = sorted((share[-1] - share[0]) * 16 / 15 for share in shares)
        assert abs(spans[1] - 0.875) < 0.02 and spans[0] <= spans[1] + 0.01


def test_random_crops_cover_areas_and_aspects(sizes: str) -> None:
    """Training batches of the set, each crop measured by its own colours."""
    batches = pipeline(sizes, name="sizes", image_size=16, batch_size=4)
    crops = np.concatenate([next(batches)["image"] for _ in range(100)]) / 255
    width = (crops[:, 8, -1, 0] - crops[:, 8, 0, 0]) * 16 / 15
    height = (crops[:, -1, 8, 1] - crops[:, 0, 8, 1]) * 16 / 15
    area = width * height
    assert 0.06 < area.min() < 0.15 and 0.85 < area.max() < 1.05
    for corner in (crops[:, 8, 0, 0], crops[:, 0, 8, 1]):
        assert corner.min() < 0.05 and corner.max() > 0.5
    assert len({c.tobytes() for c in crops}) == 400


@pytest.mark.parametrize("shape", [(50, 50), (30, 90)])
def test_a_random_crop_keeps_to_the_published_ranges(shape: tuple[int, int]) -> None:
    """Of a ramp whose values are the pixels' own positions, the ends of a crop are its corners."""
    rows, columns = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    image = np.stack([columns, rows, rows], axis=-1).astype(np.uint8)
    rng = np.random.default_rng(0)
    areas, aspects = [], []
    for _ in range(300):
        crop = random_resized_crop(image, (20, 20), rng).astype(float)
        width, height = (crop[10, -1, 0] - crop[10, 0, 0]) * 20 / 19, (crop[-1, 10, 1] - crop[0, 10, 1]) * 20 / 19
        areas.append(width * height / image[..., 0].size)
        aspects.append(width / height)
    assert 0.06 < min(areas) < 0.12 and max(areas) < 1.1
    assert 0.6 < min(aspects) < 0.85 and 1.2 < max(aspects) < 1.6


def test_an_image_too_narrow_for_any_crop_gives_its_square() -> None:
    image = np.zeros((10, 400, 3), np.uint8)
    image[..., 0] = np.minimum(np.arange(400), 255)
    crop = random_resized_crop(image, (10, 10), np.random.default_rng(0)).astype(int)
    step = np.diff(crop[5, :, 0])
    assert ((step == 1) | (crop[5, 1:, 0] == 255)).all(), "one column a pixel: ten columns were cut"


def test_a_centre_crop_of_the_wanted_size_is_still_cut() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[1:-1, 1:-1] = 200
    assert centre_crop(image, (16, 16)).min() > 90 and image.min() == 0


# Damage


def test_damage_found_while_training_is_one_line(data_dir: str, tmp_path: Path) -> None:
    """Grain reads in a thread: the error comes out where the loop asks for the batch."""
    shutil.copytree(Path(data_dir) / "digits", tmp_path / "digits")
    shard = next((tmp_path / "digits" / "1.0.0").glob("*train*"))
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    batches = pipeline(tmp_path)
    with pytest.raises(AuxjaxError, match=r"data set 'digits' is damaged .* remove it, then prepare it") as error:
        for _ in range(1442 // 32 + 1):
            next(batches)
    assert "\n" not in str(error.value)
