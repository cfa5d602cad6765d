"""On the device: every epoch is each example at most once, a function of (seed, epoch); positions resume exactly."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
import pytest

from auxjax import data
from auxjax.data.device import epoch_order
from auxjax.data.sets import arrays
from auxjax.errors import AuxjaxError
from tests.data.built import section


def pipeline(data_dir: str, seed: int = 0, **changes: Any) -> data.Pipeline:
    changed = section(data_dir, **{"batch_size": 500, "eval_batch_size": 100} | changes)
    return data.open_pipeline(data.load(changed), changed, seed)


@pytest.mark.parametrize(("size", "batch"), [(10, 3), (12, 4), (5, 5), (7, 1)])
def test_an_epoch_has_every_example_at_most_once(size: int, batch: int) -> None:
    order = epoch_order(0, 0, size, batch)
    assert order.shape == (size // batch, batch) and order.dtype == np.int32
    assert len(set(order.ravel())) == order.size and set(order.ravel()) <= set(range(size))


def test_the_order_depends_on_seed_and_epoch_alone_and_on_both() -> None:
    orders = {(s, e): epoch_order(s, e, 50, 10).tobytes() for s in range(4) for e in range(4)}
    assert len(set(orders.values())) == 16, "(0, 1) is not (1, 0)"
    assert all(orders[s, e] == epoch_order(s, e, 50, 10).tobytes() for s, e in reversed(orders))


def test_the_order_is_as_it_was_when_runs_were_saved() -> None:
    """A resumed run needs the order of the run that saved it: these numbers may never change."""
    np.testing.assert_array_equal(epoch_order(3, 2, 9, 4), [[1, 8, 4, 0], [2, 6, 3, 7]])


def test_every_example_comes_first_about_equally_often() -> None:
    first = [epoch_order(seed, epoch, 8, 8)[0, 0] for seed in range(40) for epoch in range(40)]
    assert (np.abs(np.bincount(first) - 200) < 60).all()


def test_what_fills_no_batch_is_left_out_anew_in_every_epoch(data_dir: str) -> None:
    batches = pipeline(data_dir)
    left = [set(range(1442)) - {int(i) for _ in range(2) for i in next(batches)["index"]} for _ in range(3)]
    assert [len(part) for part in left] == [442] * 3
    assert left[0] != left[1] != left[2] and len(left[0] & left[1] & left[2]) < 100


@pytest.mark.parametrize("handed_out", [0, 1, 2, 3, 7])
def test_a_restored_position_goes_on_with_the_same_batches(handed_out: int, data_dir: str) -> None:
    whole, resumed = pipeline(data_dir, seed=5), pipeline(data_dir, seed=5)
    for _ in range(handed_out):
        next(whole)
    state = json.loads(json.dumps(whole.state()))
    want = [next(whole)["index"] for _ in range(4)]
    resumed.restore(state)
    np.testing.assert_array_equal([next(resumed)["index"] for _ in range(4)], want)
    whole.restore(state)
    np.testing.assert_array_equal([next(whole)["index"] for _ in range(4)], want)


def test_seeds_of_any_sign_differ(data_dir: str) -> None:
    firsts = [next(pipeline(data_dir, seed=seed))["index"].tobytes() for seed in (-1, 0, 1, 2**31)]
    assert len(set(firsts)) == 4


@pytest.mark.parametrize("split", ["test", "train", "validation"])
def test_evaluation_is_the_whole_split_once_in_equal_shapes(split: str, data_dir: str) -> None:
    batches = pipeline(data_dir, validation_examples=150)
    resident = batches.resident(split)
    inputs = list(batches.evaluation(split))
    assert {(i["index"].shape, i["mask"].shape) for i in inputs} == {((100,), (100,))}
    spec = data.BatchSpec(10, (0.0,), (1 / 255,))
    gathered = [jax.jit(data.to_batch, static_argnums=2)(resident, i, spec) for i in inputs]
    kept = np.concatenate([np.asarray(b["mask"]) for b in gathered]) == 1
    for name, want in resident.items():
        got = np.concatenate([np.asarray(b[name]) for b in gathered])[kept]
        np.testing.assert_allclose(got, want, atol=1e-3)
    assert kept.sum() == {"test": 355, "train": 1292, "validation": 150}[split]


def test_training_inputs_gather_what_the_split_holds(data_dir: str) -> None:
    changed = section(data_dir, validation_examples=300, batch_size=64)
    dataset = data.load(changed)
    batches = data.open_pipeline(dataset, changed, 0)
    inputs = next(batches)
    batch = data.to_batch(batches.resident("train"), inputs, data.BatchSpec(10, (0.0,), (1 / 255,)))
    want = [dataset.splits["train"][int(i)] for i in inputs["index"]]
    np.testing.assert_allclose(batch["image"], [e["image"] for e in want], atol=1e-3)
    np.testing.assert_array_equal(batch["label"], [e["label"] for e in want])


@pytest.mark.parametrize("cache", ["device", "host"])
def test_a_batch_larger_than_the_set_is_one_line(cache: str, data_dir: str) -> None:
    with pytest.raises(AuxjaxError, match=r"data.batch_size=1443, and the training split of 'digits' has only 1442"):
        pipeline(data_dir, batch_size=1443, cache=cache)


def test_evaluating_a_split_does_not_read_it_again(data_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions and masks need the split's length alone; its images are on the device."""
    batches = pipeline(data_dir, image_size=9)
    monkeypatch.setattr("auxjax.data.device.arrays", lambda *_: pytest.fail("read"))
    assert len(list(batches.evaluation("test"))) == 4


def test_arrays_and_records_are_in_one_order(data_dir: str) -> None:
    dataset = data.load(section(data_dir))
    read = arrays(dataset, "test")
    np.testing.assert_array_equal([e["label"] for e in dataset.splits["test"]], read["label"])
    np.testing.assert_array_equal(dataset.splits["test"][-1]["image"], read["image"][-1])
