"""Label noise: as many random labels as asked for, the same in every epoch, on training labels alone."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from auxjax import config as configs
from auxjax import data
from auxjax.check import finalize
from auxjax.errors import AuxjaxError

SIZE, CLASSES = 20_000, 10
RESIDENT: dict[str, np.ndarray] = {
    "image": np.zeros((SIZE, 1, 1, 1), np.uint8), "label": np.arange(SIZE, dtype=np.int32) % CLASSES,
}  # fmt: skip
KEY = jax.random.key(3)


def labels(share: float, index: np.ndarray, key: jax.Array | None = KEY) -> np.ndarray:
    spec = data.BatchSpec(CLASSES, (0.0,), (1.0,), label_noise=share)
    step_key = None if key is None else jax.random.key(0)
    return np.asarray(data.to_batch(RESIDENT, {"index": index}, spec, step_key, key)["label"])


def test_a_share_of_labels_is_drawn_from_all_classes() -> None:
    changed = labels(0.3, np.arange(SIZE)) != RESIDENT["label"]
    assert changed.mean() == pytest.approx(0.3 * (CLASSES - 1) / CLASSES, abs=0.01)
    drawn = np.bincount(labels(1.0, np.arange(SIZE)), minlength=CLASSES)
    np.testing.assert_allclose(drawn / SIZE, 1 / CLASSES, atol=0.01)


def test_an_examples_label_depends_on_its_position_and_the_key_alone() -> None:
    index = np.random.default_rng(0).permutation(SIZE)
    whole = labels(0.5, np.arange(SIZE))
    np.testing.assert_array_equal(labels(0.5, index), whole[index])
    assert (labels(0.5, index, jax.random.key(4)) != whole[index]).any()


def test_less_noise_corrupts_some_of_what_more_does_and_as_it_does() -> None:
    little, much = labels(0.1, np.arange(SIZE)), labels(0.4, np.arange(SIZE))
    changed = little != RESIDENT["label"]
    assert changed.any()
    np.testing.assert_array_equal(little[changed], much[changed])


def test_none_and_evaluation_leave_labels_alone() -> None:
    index = np.arange(100)
    np.testing.assert_array_equal(labels(0.0, index), RESIDENT["label"][:100])
    np.testing.assert_array_equal(labels(0.5, index, None), RESIDENT["label"][:100])


@pytest.mark.parametrize(("cache", "share", "message"), [("host", 0.1, "cache='device'"), ("device", 1.5, r"\[0, 1\]")])
def test_noise_that_cannot_be_is_one_line(cache: str, share: float, message: str) -> None:
    config = configs.base()
    config.data.update(cache=cache, label_noise=share)
    with pytest.raises(AuxjaxError, match=message):
        finalize(config)
