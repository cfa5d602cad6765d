"""From what a pipeline hands over to the batch of a step, inside jit: gather, augment, normalise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from auxjax.config import is_on


class BatchSpec(NamedTuple):
    """What turns raw examples into a batch; hashable. Sizes are pixels, `mixup` the Beta distribution's parameter.

    `label_noise` is the share of training labels that are random; it may be an argument of a compiled program.
    """

    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int = 0
    flip: bool = False
    mixup: float = 0.0
    cutout: int = 0
    label_noise: Any = 0.0


Arrays = Mapping[str, jax.Array] | Mapping[str, np.ndarray]


def to_batch(
    resident: Arrays,
    inputs: Arrays,
    spec: BatchSpec,
    key: jax.Array | None = None,
    noise_key: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Returns `{"image": float32[B, H, W, C], "label"}` and the inputs' mask, if any.

    `inputs` has `index` int32[B] into the `resident` arrays, or the raw examples. With a `key` (training) the images
    are augmented; mixup makes the labels soft, float32[B, N]. `noise_key`, the same at every step, is for label noise.
    """
    rest = {name: jnp.asarray(value) for name, value in inputs.items() if name != "index"}
    index = inputs.get("index")
    raw = rest if index is None else rest | {name: jnp.asarray(array[index]) for name, array in resident.items()}
    image, label = raw.pop("image"), raw.pop("label")
    if noise_key is not None and is_on(spec.label_noise):
        label = noisy_labels(label, inputs["index"], spec.num_classes, spec.label_noise, noise_key)
    if key is not None:
        crop_key, flip_key, cutout_key = jax.random.split(jax.random.fold_in(key, 0), 3)
        image = random_crop(image, spec.crop_padding, crop_key) if spec.crop_padding else image
        image = random_flip(image, flip_key) if spec.flip else image
    mean, std = (jnp.asarray(moment)[None, None, None] for moment in (spec.mean, spec.std))
    image = (image.astype(jnp.float32) / 255.0 - mean) / std
    if key is not None:
        image = cutout(image, spec.cutout, cutout_key) if spec.cutout else image
        if spec.mixup:
            image, label = mixup(image, label, spec.num_classes, spec.mixup, jax.random.fold_in(key, 1))
    return {"image": image, "label": label, **raw}


def noisy_labels(labels: jax.Array, index: Any, num_classes: int, share: Any, key: jax.Array) -> jax.Array:
    """Returns each label replaced with probability `share` by a class drawn from all, the true one included.

    As in Zhang et al. 2017, arXiv 1611.03530, section 2.1 ("partially corrupted labels"). What an example gets depends
    on its index and the key alone: it is the same in every epoch, and the examples that a smaller share corrupts are
    among those of a larger one.
    """

    def one(position: jax.Array) -> tuple[jax.Array, jax.Array]:
        chance_key, class_key = jax.random.split(jax.random.fold_in(key, position))
        return jax.random.uniform(chance_key), jax.random.randint(class_key, (), 0, num_classes, labels.dtype)

    chance, drawn = jax.vmap(one)(jnp.asarray(index))
    return jnp.where(chance < share, drawn, labels)


def random_crop(images: jax.Array, padding: int, key: jax.Array) -> jax.Array:
    """Returns each image shifted by up to `padding` pixels either way, zeros (black) moving in."""
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (images.shape[0], 2), 0, 2 * padding + 1)
    size = images.shape[1:]
    return jax.vmap(lambda image, c: jax.lax.dynamic_slice(image, (c[0], c[1], 0), size))(padded, corners)


def random_flip(images: jax.Array, key: jax.Array) -> jax.Array:
    """Returns each image mirrored left to right with probability 1/2."""
    mirrored = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def cutout(images: jax.Array, size: int, key: jax.Array) -> jax.Array:
    """Returns each image with a square of `size` pixels around a random pixel set to 0, the mean once normalised.

    The square may reach over the edge (DeVries and Taylor 2017, arXiv 1708.04552, section 3.2).
    """
    height, width = images.shape[1:3]
    y, x = jax.random.uniform(key, (2, images.shape[0], 1, 1)) * jnp.array([height, width])[:, None, None, None]
    rows, columns = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None, :]
    top, left = jnp.floor(y) - size // 2, jnp.floor(x) - size // 2
    inside = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
    return jnp.where(inside[..., None], 0.0, images)


def mixup(
    images: jax.Array, labels: jax.Array, num_classes: int, alpha: float, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns lambda x + (1 - lambda) x' and the labels mixed alike, x' the batch in a random order.

    lambda ~ Beta(alpha, alpha), one a batch (Zhang et al. 2018, arXiv 1710.09412, section 2 and its reference code).
    """
    lambda_key, order_key = jax.random.split(key)
    weight = jax.random.beta(lambda_key, alpha, alpha)
    partner = jax.random.permutation(order_key, images.shape[0])
    soft = jax.nn.one_hot(labels, num_classes)
    return weight * images + (1 - weight) * images[partner], weight * soft + (1 - weight) * soft[partner]
