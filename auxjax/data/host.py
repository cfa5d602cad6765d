"""A set too large for the device: Grain reads, shuffles and batches it from disk, ahead of the step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from auxjax.data.device import Rows
from auxjax.data.records import Records, Subset, resize
from auxjax.data.sets import DataSet
from auxjax.errors import AuxjaxError

# The share of the shorter side that evaluation sees of images of different sizes, and training's range of areas and
# aspects (Szegedy et al. 2014, arXiv 1409.4842, section 6; the central 224 of 256 pixels is common since).
_CENTRE, _AREA, _ASPECT = 0.875, (0.08, 1.0), (3 / 4, 4 / 3)


class HostPipeline:
    """Inputs are `{"image": uint8[batch, H, W, C], "label": int32[batch]}`, and of evaluation "mask" float32[batch].

    Images of one size are resized whole where the set has another; images of different sizes are cut at random for
    training and at the centre for evaluation. Grain shuffles every epoch anew; a batch may span two. Its position is
    that of the last batch handed out, whatever it has read ahead. JAX's asynchronous dispatch already overlaps the copy
    to the device with the step before, so that nothing else reads ahead.
    """

    def __init__(self, dataset: DataSet, config: Mapping[str, Any], seed: int, rows: Rows = np.arange) -> None:
        import grain

        self._rows = rows
        self._dataset, self._eval_batch, self._workers = dataset, config["eval_batch_size"], config["num_workers"]
        split, size = dataset.split("train"), dataset.image_shape[:2]
        order = grain.MapDataset.source(range(len(split))).seed(seed).shuffle().repeat(None)
        positions = order.batch(config["batch_size"], drop_remainder=True)
        mine = rows(config["batch_size"])
        if _differ(split):
            batches = positions.random_map(functools.partial(_read_crops, split, size, mine))
        else:
            batches = positions.map(functools.partial(_read_rows, split, functools.partial(resize, size=size), mine))
        read = batches.to_iter_dataset(_read_options())
        if self._workers:
            _parse_flags()
            read = read.mp_prefetch(grain.MultiprocessingOptions(num_workers=self._workers))
        self._iterator = iter(read)

    def resident(self, split: str) -> Mapping[str, np.ndarray]:
        """Returns nothing: batches carry their images."""
        return {}

    def __next__(self) -> dict[str, np.ndarray]:
        inputs: dict[str, np.ndarray] = next(self._iterator)
        return inputs

    def state(self) -> dict[str, Any]:
        """Returns Grain's position and the number of workers that it belongs to."""
        return {"grain": self._iterator.get_state(), "num_workers": self._workers}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to a position that state() gave; raises AuxjaxError for another number of workers."""
        saved = state["num_workers"]
        if saved != self._workers:
            raise AuxjaxError(
                f"this run was saved with data.num_workers={saved}: resume it so, not with {self._workers}"
            )
        self._iterator.set_state(dict(state["grain"]))

    def evaluation(self, split: str) -> Iterator[dict[str, np.ndarray]]:
        """Yields the split's images, labels and masks."""
        import grain

        source, count, size = self._dataset.split(split), self._eval_batch, self._dataset.image_shape[:2]
        fit = functools.partial(centre_crop if _differ(source) else resize, size=size)
        starts = grain.MapDataset.source(range(0, len(source), count))
        read = functools.partial(_read_masked, source, fit, self._rows(count))
        yield from starts.map(read).to_iter_dataset(_read_options())


def read_examples(dataset: DataSet, split: str, positions: np.ndarray) -> dict[str, np.ndarray]:
    """Returns images uint8[n, H, W, C] and labels int32[n] at `positions` of a split, made one size as to evaluate."""
    source, size = dataset.split(split), dataset.image_shape[:2]
    return _read(source, functools.partial(centre_crop if _differ(source) else resize, size=size), positions)


def _read(split: Records | Subset, fit: Callable[..., np.ndarray], positions: np.ndarray) -> dict[str, np.ndarray]:
    """Returns a batch whose images `fit` has made one size."""
    examples = split.__getitems__(positions)
    labels = np.array([example["label"] for example in examples], np.int32)
    return {"image": np.stack([fit(example["image"]) for example in examples]), "label": labels}


def _read_rows(
    split: Records | Subset, fit: Callable[..., np.ndarray], rows: np.ndarray, positions: np.ndarray
) -> dict[str, np.ndarray]:
    return _read(split, fit, positions[rows])


def _read_crops(
    split: Records | Subset, size: tuple[int, int], rows: np.ndarray, positions: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Returns rows cut at random, each by the batch's seed and its place in the batch alone."""
    seed = int(rng.integers(2**63))
    examples = split.__getitems__(positions[rows])
    images = [
        random_resized_crop(example["image"], size, np.random.default_rng([seed, int(row)]))
        for example, row in zip(examples, rows, strict=True)
    ]
    return {"image": np.stack(images), "label": np.array([example["label"] for example in examples], np.int32)}


def _read_masked(
    split: Records | Subset, fit: Callable[..., np.ndarray], rows: np.ndarray, start: int
) -> dict[str, np.ndarray]:
    """Returns rows of the batch that begins at `start`; past the end, the last example stands in and is masked."""
    index = start + rows
    positions, places = np.unique(np.minimum(index, len(split) - 1), return_inverse=True)
    batch = _read(split, fit, positions)
    return {k: v[places] for k, v in batch.items()} | {"mask": (index < len(split)).astype(np.float32)}


def centre_crop(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns uint8[size[0], size[1], C]: the central square of 87.5 % of the shorter side, resized."""
    height, width = image.shape[:2]
    side = _CENTRE * min(height, width)
    left, upper = (width - side) / 2, (height - side) / 2
    return resize(image, size, (left, upper, left + side, upper + side))


def random_resized_crop(image: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Returns uint8[size[0], size[1], C]: 8 to 100 % of the area at an aspect of 3/4 to 4/3, resized."""
    height, width = image.shape[:2]
    for _ in range(10):
        area, aspect = rng.uniform(*_AREA) * height * width, np.exp(rng.uniform(*np.log(_ASPECT)))
        w, h = np.sqrt(area * aspect), np.sqrt(area / aspect)
        if w <= width and h <= height:
            break
    else:
        w = h = float(min(width, height))
    left, upper = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return resize(image, size, (left, upper, left + w, upper + h))


def _differ(split: Records | Subset) -> bool:
    """Returns whether the images of a split have different sizes."""
    return None in split.image_shape


def _read_options() -> Any:
    import grain

    return grain.ReadOptions(num_threads=4, prefetch_buffer_size=16)


def _parse_flags() -> None:
    """Grain's worker processes read absl flags, which a notebook never parses."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
