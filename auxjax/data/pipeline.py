"""Where batches come from: a set that lives on the device, or one that Grain reads from disk; both resume exactly."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from auxjax.data.sets import DataSet, arrays, resize
from auxjax.errors import AuxjaxError

Inputs = dict[str, np.ndarray]


class Pipeline(Protocol):
    """What a loop asks of its data: endless training inputs with a position, and whole splits to evaluate."""

    def resident(self, split: str) -> Mapping[str, np.ndarray]:
        """Returns the arrays that live on the device for a split; none where every batch comes from the host."""

    def __next__(self) -> Inputs:
        """Returns the next training inputs."""

    def state(self) -> dict[str, Any]:
        """Returns the position after the last inputs handed out, as JSON."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to a position that state() gave."""

    def evaluation(self, split: str) -> Iterator[Inputs]:
        """Returns a whole split once, in order; the last batch is filled up and masked, so that all have one shape."""


def open_pipeline(dataset: DataSet, config: Mapping[str, Any], seed: int) -> Pipeline:
    """Returns the pipeline that `config.data.cache` names; raises AuxjaxError where a batch is larger than the set."""
    size, batch = len(dataset.splits["train"]), config["batch_size"]
    if batch > size:
        raise AuxjaxError(
            f"data.batch_size={batch}, and the training split of {dataset.name!r} has only {size} examples"
        )
    return (DevicePipeline if config["cache"] == "device" else HostPipeline)(dataset, config, seed)


def epoch_order(seed: int, epoch: int, size: int, batch_size: int) -> np.ndarray:
    """Returns int32[size // batch_size, batch_size]: the epoch's shuffled positions, a function of its arguments alone."""
    order = np.random.default_rng([seed, epoch]).permutation(size).astype(np.int32)
    return order[: size // batch_size * batch_size].reshape(-1, batch_size)


class DevicePipeline:
    """Hands out positions; the images stay on the device and are gathered inside the step."""

    def __init__(self, dataset: DataSet, config: Mapping[str, Any], seed: int) -> None:
        self._dataset, self._seed = dataset, seed
        self._size, self._batch, self._eval_batch = (
            len(dataset.splits["train"]),
            config["batch_size"],
            config["eval_batch_size"],
        )
        self._steps = self._size // self._batch
        self._next, self._epoch, self._order = 0, -1, np.zeros((0, self._batch), np.int32)

    def resident(self, split: str) -> Mapping[str, np.ndarray]:
        """Returns the split's images and labels."""
        return arrays(self._dataset, split)

    def __next__(self) -> Inputs:
        epoch, step = divmod(self._next, self._steps)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self._seed, epoch, self._size, self._batch)
        self._next += 1
        return {"index": self._order[step]}

    def state(self) -> dict[str, Any]:
        """Returns `{"next": batches handed out}`."""
        return {"next": self._next}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to a position that state() gave."""
        self._next = int(state["next"])

    def evaluation(self, split: str) -> Iterator[Inputs]:
        """Yields positions and masks over the split."""
        size = len(self.resident(split)["label"])
        for start in range(0, size, self._eval_batch):
            index = np.arange(start, start + self._eval_batch)
            yield {"index": np.minimum(index, size - 1).astype(np.int32), "mask": (index < size).astype(np.float32)}


class HostPipeline:
    """Reads batches from disk with Grain, a few ahead; where a position is kept, it is that of the last one handed out."""

    def __init__(self, dataset: DataSet, config: Mapping[str, Any], seed: int) -> None:
        import grain

        self._dataset, self._eval_batch = dataset, config["eval_batch_size"]
        crop = (
            _RandomResizedCrop(dataset.image_shape[:2])
            if config["image_size"]
            else _Check(dataset.image_shape, dataset.num_classes)
        )
        data = grain.MapDataset.source(dataset.splits["train"]).seed(seed).shuffle().repeat(None)
        mapped = data.random_map(crop) if config["image_size"] else data.map(crop)
        batched = mapped.batch(config["batch_size"], drop_remainder=True)
        read = batched.to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=16))
        if config["num_workers"]:
            _parse_flags()
            read = read.mp_prefetch(grain.MultiprocessingOptions(num_workers=config["num_workers"]))
        self._iterator = iter(read)
        self._workers = config["num_workers"]
        self._ahead: deque[tuple[Inputs, Any]] = deque()
        self._position = self._iterator.get_state()

    def resident(self, split: str) -> Mapping[str, np.ndarray]:
        """Returns nothing: batches carry their images."""
        return {}

    def __next__(self) -> Inputs:
        while len(self._ahead) < 2:
            inputs = next(self._iterator)
            self._ahead.append((inputs, self._iterator.get_state()))
        inputs, self._position = self._ahead.popleft()
        return inputs

    def state(self) -> dict[str, Any]:
        """Returns Grain's position and the number of workers that it belongs to."""
        return {"grain": self._position, "num_workers": self._workers}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to a position that state() gave; raises AuxjaxError for another number of workers."""
        if state["num_workers"] != self._workers:
            raise AuxjaxError(
                f"this run was saved with data.num_workers={state['num_workers']}; resume with the same, not {self._workers}"
            )
        self._ahead.clear()
        self._iterator.set_state(dict(state["grain"]))
        self._position = self._iterator.get_state()

    def evaluation(self, split: str) -> Iterator[Inputs]:
        """Yields the split's images, labels and masks."""
        if split not in self._dataset.splits:
            raise AuxjaxError(
                f"data set {self._dataset.name!r} has no split {split!r}; valid: {', '.join(self._dataset.splits)}"
            )
        source, count = self._dataset.splits[split], self._eval_batch
        check = _Check(self._dataset.image_shape, self._dataset.num_classes, resize_to_fit=True)
        for start in range(0, len(source), count):
            examples = [check.map(e) for e in source.__getitems__(range(start, min(start + count, len(source))))]
            mask = (np.arange(count) < len(examples)).astype(np.float32)
            examples += [examples[-1]] * (count - len(examples))
            yield {key: np.stack([e[key] for e in examples]) for key in ("image", "label")} | {"mask": mask}


class _Check:
    """Passes examples whose image and label fit; at evaluation it first cuts the central 87.5 % to size."""

    def __init__(self, shape: tuple[int, ...], num_classes: int, resize_to_fit: bool = False) -> None:
        self._shape, self._classes, self._resize = shape, num_classes, resize_to_fit

    def map(self, element: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the image as uint8 and the label as int32; raises AuxjaxError where they do not fit."""
        image, label = np.asarray(element["image"]), int(element["label"])
        if self._resize and image.shape != self._shape:
            height, width = image.shape[:2]
            side = 0.875 * min(height, width)
            left, upper = (width - side) / 2, (height - side) / 2
            image = resize(image, (self._shape[0], self._shape[1]), (left, upper, left + side, upper + side))
        if image.shape != self._shape or not 0 <= label < self._classes:
            raise AuxjaxError(
                f"an example has image {list(image.shape)} and label {label}; expected {list(self._shape)} and labels 0 to {self._classes - 1}"
            )
        return {"image": image, "label": np.int32(label)}

    __call__ = map


class _RandomResizedCrop:
    """Cuts 8 to 100 % of the area at an aspect of 3/4 to 4/3 and resizes it (Szegedy et al. 2014, section 6)."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size

    def __call__(self, element: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        image = np.asarray(element["image"])
        height, width = image.shape[:2]
        for _ in range(10):
            area, aspect = rng.uniform(0.08, 1.0) * height * width, np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = np.sqrt(area * aspect), np.sqrt(area / aspect)
            if w <= width and h <= height:
                break
        else:
            w = h = float(min(width, height))
        left, upper = rng.uniform(0, width - w), rng.uniform(0, height - h)
        return {
            "image": resize(image, self._size, (left, upper, left + w, upper + h)),
            "label": np.int32(element["label"]),
        }


def _parse_flags() -> None:
    """Grain's worker processes read absl flags, which a notebook never parses."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
