"""A set that lives on the device: the pipeline hands out positions alone, and the step gathers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from auxjax.data.sets import DataSet, arrays

# Of a batch of so many examples, the positions of those that this process handles: int[rows].
Rows = Callable[[int], np.ndarray]


def epoch_order(seed: int, epoch: int, num_examples: int, batch_size: int) -> np.ndarray:
    """Returns int32[num_examples // batch_size, batch_size]: an epoch's shuffled positions, each at most once.

    A function of its arguments alone; the examples that fill no batch are other ones in every epoch.
    """
    order = np.random.default_rng([seed, epoch]).permutation(num_examples).astype(np.int32)
    return order[: num_examples // batch_size * batch_size].reshape(-1, batch_size)


class DevicePipeline:
    """Training inputs are `{"index": int32[batch]}`, of evaluation `{"index", "mask": float32[batch]}`."""

    def __init__(self, dataset: DataSet, config: Mapping[str, Any], seed: int, rows: Rows = np.arange) -> None:
        self._dataset, self._seed, self._rows = dataset, seed, rows
        self._size, self._batch = len(dataset.split("train")), config["batch_size"]
        self._eval_batch = config["eval_batch_size"]
        self._next, self._epoch, self._order = 0, -1, np.zeros((0, self._batch), np.int32)

    def resident(self, split: str) -> Mapping[str, np.ndarray]:
        """Returns the split's images uint8[N, H, W, C] and labels int32[N]."""
        return arrays(self._dataset, split)

    def __next__(self) -> dict[str, np.ndarray]:
        epoch, step = divmod(self._next, self._size // self._batch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self._seed, epoch, self._size, self._batch)
        self._next += 1
        return {"index": self._order[step][self._rows(self._batch)]}

    def state(self) -> dict[str, Any]:
        """Returns `{"next": batches handed out}`."""
        return {"next": self._next}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to a position that state() gave."""
        self._next = int(state["next"])

    def evaluation(self, split: str) -> Iterator[dict[str, np.ndarray]]:
        """Yields positions and masks over the split."""
        size = len(self._dataset.split(split))
        for start in range(0, size, self._eval_batch):
            index = start + self._rows(self._eval_batch)
            yield {"index": np.minimum(index, size - 1).astype(np.int32), "mask": (index < size).astype(np.float32)}
