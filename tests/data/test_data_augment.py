"""Each augmentation against a plain NumPy account of what its paper says, inside jit and as functions of the key."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax import data

SIZE = 64
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(1, 256, (SIZE, 7, 9, 2), np.uint8)
LABELS = RNG.integers(0, 5, SIZE).astype(np.int32)
INPUTS = {"image": IMAGES, "label": LABELS}
ALL: dict[str, Any] = {"crop_padding": 2, "flip": True, "mixup": 0.4, "cutout": 3}


def batch(key: int | None = 0, **augment: Any) -> dict[str, np.ndarray]:
    """The batch, from bytes to multiples of 1/255."""
    spec = data.BatchSpec(5, (0.0, 0.0), (1.0, 1.0), **augment)
    made = compiled(spec)({}, INPUTS, key=None if key is None else jax.random.key(key))
    return {name: np.asarray(value) for name, value in made.items()}


@functools.cache
def compiled(spec: data.BatchSpec) -> Any:
    return jax.jit(functools.partial(data.to_batch, spec=spec))


def as_bytes(images: np.ndarray) -> np.ndarray:
    return np.round(images * 255).astype(np.uint8)


def test_without_augmentation_images_are_normalised_by_channel() -> None:
    spec = data.BatchSpec(5, (0.2, 0.4), (0.5, 0.25))
    made = jax.jit(data.to_batch, static_argnums=2)({}, {**INPUTS, "mask": np.ones(SIZE, np.float32)}, spec)
    want = (IMAGES / 255 - [0.2, 0.4]) / [0.5, 0.25]
    assert made["image"].dtype == np.float32
    np.testing.assert_allclose(made["image"], want, atol=1e-6)
    np.testing.assert_array_equal(made["label"], LABELS)
    assert set(made) == {"image", "label", "mask"}


def test_evaluation_is_not_augmented() -> None:
    made = batch(key=None, **ALL)
    np.testing.assert_array_equal(as_bytes(made["image"]), IMAGES)
    np.testing.assert_array_equal(made["label"], LABELS)


@pytest.mark.parametrize("augment", [{"crop_padding": 2}, {"flip": True}, {"cutout": 3}, {"mixup": 0.4}, ALL])
def test_a_key_gives_one_batch_and_another_another(augment: dict[str, Any]) -> None:
    first, again, other = batch(1, **augment), batch(1, **augment), batch(2, **augment)
    np.testing.assert_array_equal(first["image"], again["image"])
    assert (first["image"] != other["image"]).any()


def test_what_lies_on_the_device_is_augmented_like_what_comes_from_the_host() -> None:
    """The same examples, gathered inside the step or handed over: one function, the same bits."""
    spec = data.BatchSpec(5, (0.1, 0.1), (0.3, 0.3), **ALL)
    index = np.arange(SIZE, dtype=np.int32)[::-1]
    function = jax.jit(data.to_batch, static_argnums=2)
    gathered = function(INPUTS, {"index": index}, spec, jax.random.key(3))
    handed = function({}, {name: value[index] for name, value in INPUTS.items()}, spec, jax.random.key(3))
    for name in ("image", "label"):
        np.testing.assert_array_equal(gathered[name], handed[name])


def test_a_random_crop_is_a_window_of_the_padded_image_and_every_window_occurs() -> None:
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)))
    seen = []
    for key in range(8):
        for image, wide in zip(as_bytes(batch(key, crop_padding=2)["image"]), padded, strict=True):
            windows = [(y, x) for y in range(5) for x in range(5) if (wide[y : y + 7, x : x + 9] == image).all()]
            assert len(windows) == 1
            seen += windows
    counts = np.unique(seen, axis=0, return_counts=True)[1]
    assert len(counts) == 25 and counts.min() > 5 and counts.max() < 45, "about 20 of 512 each"


def test_half_of_the_images_are_mirrored_each_by_itself() -> None:
    mirrored = []
    for key in range(4):
        for image, raw in zip(as_bytes(batch(key, flip=True)["image"]), IMAGES, strict=True):
            same, mirror = (image == raw).all(), (image == raw[:, ::-1]).all()
            assert same != mirror
            mirrored.append(mirror)
    assert 0.4 < np.mean(mirrored) < 0.6


@pytest.mark.parametrize("size", [3, 4])
def test_cutout_is_one_square_that_may_reach_over_the_edge(size: int) -> None:
    height, width = set(), set()
    for key in range(16):
        made = as_bytes(batch(key, cutout=size)["image"])
        for image, raw in zip(made, IMAGES, strict=True):
            out = (image == 0).all(-1)
            np.testing.assert_array_equal(image[~out], raw[~out])
            rows, columns = np.flatnonzero(out.any(1)), np.flatnonzero(out.any(0))
            assert (
                out[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].sum() == out.sum() == len(rows) * len(columns)
            )
            height.add((rows[0], rows[-1]))
            width.add((columns[0], columns[-1]))
    for seen, edge in ((height, 7), (width, 9)):
        starts = [centre - size // 2 for centre in range(edge)]
        assert seen == {(max(start, 0), min(start + size, edge) - 1) for start in starts}


def test_cutout_hides_with_the_mean() -> None:
    """0 once normalised, which is the mean colour and not black."""
    spec = data.BatchSpec(5, (0.5, 0.5), (0.25, 0.25), cutout=3)
    made = np.asarray(compiled(spec)({}, INPUTS, key=jax.random.key(0))["image"])
    zeros = (made == 0).all(-1).sum((1, 2))
    assert ((zeros >= 4) & (zeros <= 9)).all()


def test_mixup_mixes_images_and_labels_by_one_weight() -> None:
    """lambda is read off the labels; then every image must be that mixture with some image of the partner's label."""
    weights = []
    for key in range(6):
        made = batch(key, mixup=0.4)
        assert made["label"].shape == (SIZE, 5) and made["label"].dtype == np.float32
        np.testing.assert_allclose(made["label"].sum(1), 1, atol=1e-6)
        mixed = made["label"][made["label"].max(1) < 1 - 1e-6]
        values = np.unique(np.round(mixed[mixed > 1e-6], 5))
        if not len(values):
            continue
        assert len(values) in (1, 2), "one lambda for the batch"
        candidates = {values[0], 1 - values[0]}
        weight = next(w for w in candidates if is_mixture(made, w))
        weights.append(weight)
    assert len(weights) >= 4 and len({round(float(w), 4) for w in weights}) == len(weights)


def is_mixture(made: dict[str, np.ndarray], weight: float) -> bool:
    """Whether each image is weight * its own + (1 - weight) * another's, the labels alike and the partners an order."""
    one_hot, partners = np.eye(5)[LABELS], []
    for i, (image, label) in enumerate(zip(made["image"], made["label"], strict=True)):
        rest = (image - weight * IMAGES[i] / 255) / (1 - weight)
        distance = np.abs(rest[None] - IMAGES / 255).max((1, 2, 3))
        partner = int(distance.argmin())
        if (
            distance[partner] > 1e-2
            or np.abs(weight * one_hot[i] + (1 - weight) * one_hot[partner] - label).max() > 1e-4
        ):
            return False
        partners.append(partner)
    return sorted(partners) == list(range(SIZE))


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_the_weight_of_mixup_is_beta_distributed(alpha: float) -> None:
    """Its variance is 1 / (4 (2 alpha + 1)), about a mean of 1/2: the share of an own label that no other image has."""
    from auxjax.data.batch import mixup

    images, labels = jnp.eye(8).reshape(8, 8, 1, 1), jnp.arange(8)
    mix = jax.jit(jax.vmap(lambda key: mixup(images, labels, 8, alpha, key)[0]))
    mixed = np.asarray(mix(jax.random.split(jax.random.key(0), 2000)))[..., 0, 0]
    own = np.diagonal(mixed, axis1=1, axis2=2)
    weight = own.min(1)  # an image that is its own partner keeps all of itself, the others lambda
    assert abs(weight.mean() - 0.5) < 0.03
    assert abs(weight.var() - 1 / (4 * (2 * alpha + 1))) < 0.015


def test_augmentations_compose_and_the_mask_passes() -> None:
    spec = data.BatchSpec(5, (0.1, 0.1), (0.3, 0.3), **ALL)
    made = compiled(spec)({}, {**INPUTS, "mask": np.ones(SIZE, np.float32)}, key=jax.random.key(0))
    assert {name: value.shape for name, value in made.items()} == {
        "image": (SIZE, 7, 9, 2), "label": (SIZE, 5), "mask": (SIZE,),
    }  # fmt: skip
    assert all(np.isfinite(value).all() for value in made.values())
