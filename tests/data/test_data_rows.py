"""Several processes read one batch: each its rows, alike whoever reads the others, and none that are not its own."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from auxjax import data, parallel
from auxjax.data.records import Records
from tests.data.built import build, image_features, images, section

SHARES = [np.array([0, 3]), np.array([1]), np.array([2])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eleven images of two sizes to train on, seven to test."""
    place = tmp_path_factory.mktemp("rows")
    splits = {"train": [*images(6, 14, 16), *images(5, 20, 12, seed=1)], "test": images(7, 12, 12, seed=2)}
    build(place, "rows", image_features(None, None), splits)
    return str(place)


def shares(folder: str, cache: str, digits: str) -> list[data.Pipeline]:
    """The whole pipeline, then one for each of SHARES."""
    changes = {"cache": cache, "batch_size": 4, "eval_batch_size": 4}
    chosen = {"name": "rows", "image_size": 8} if cache == "host" else {"name": "digits"}
    config = section(folder if cache == "host" else digits, **changes, **chosen)
    dataset = data.load(config)
    parts = [data.open_pipeline(dataset, config, 0, rows=functools.partial(_share, share)) for share in SHARES]
    return [data.open_pipeline(dataset, config, 0), *parts]


def _share(rows: np.ndarray, _size: int) -> np.ndarray:
    return rows


def check(whole: dict[str, np.ndarray], parts: Sequence[dict[str, np.ndarray]]) -> None:
    for rows, part in zip(SHARES, parts, strict=True):
        assert part.keys() == whole.keys()
        for name in whole:
            np.testing.assert_array_equal(part[name], whole[name][rows])


@pytest.mark.parametrize("cache", ["device", "host"])
def test_rows_hold_what_they_hold_in_the_whole_batch(cache: str, folder: str, data_dir: str) -> None:
    whole, *parts = shares(folder, cache, data_dir)
    for _ in range(7):
        check(next(whole), [next(part) for part in parts])
    batches = [list(pipeline.evaluation("test")) for pipeline in (whole, *parts)]
    assert sum(float(batch["mask"].sum()) for batch in batches[0]) == (7 if cache == "host" else 355)
    for batch, *others in zip(*batches, strict=True):
        check(batch, others)


@pytest.mark.parametrize("cache", ["device", "host"])
def test_a_position_is_that_of_any_number_of_processes(cache: str, folder: str, data_dir: str) -> None:
    whole, part, *_ = shares(folder, cache, data_dir)
    for _ in range(3):
        next(part)
    whole.restore(part.state())
    check(next(whole), [next(part)] + [next(p) for p in shares_at(folder, cache, data_dir, 3)])


def shares_at(folder: str, cache: str, digits: str, handed_out: int) -> list[data.Pipeline]:
    """The pipelines of the other shares, at a position."""
    others = shares(folder, cache, digits)[2:]
    for pipeline in others:
        for _ in range(handed_out):
            next(pipeline)
    return others


def test_only_the_rows_are_read(folder: str, data_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, get = shares(folder, "host", data_dir)[2], Records.__getitems__
    read: set[tuple[int, int]] = set()

    def spy(self: Records, positions: Any) -> list[Any]:
        read.update((len(self), int(position)) for position in positions)
        return get(self, positions)

    monkeypatch.setattr(Records, "__getitems__", spy)
    list(one.evaluation("test"))
    assert {position for length, position in read if length == 7} == {1, 5}


def test_one_image_twice_in_a_batch_is_cut_twice(tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("alike")
    build(place, "alike", image_features(None, None), {"train": images(1, 30, 30) * 4, "test": images(1, 30, 30)})
    config = section(place, name="alike", image_size=8, cache="host", batch_size=4)
    batch = next(data.open_pipeline(data.load(config), config, 0))
    assert len({image.tobytes() for image in batch["image"]}) == 4


@pytest.mark.multidevice
def test_one_process_holds_every_row_and_a_mesh_in_any_order() -> None:
    where = parallel.layout("jit", 4)
    np.testing.assert_array_equal(parallel.local_rows(where, 12), np.arange(12))
    mixed = where._replace(devices=where.devices[::-1])
    np.testing.assert_array_equal(parallel.local_rows(mixed, 12), np.arange(12))
