"""What a loop asks of its data, whether the set lives on the device or is read from disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from auxjax.data.device import DevicePipeline, Rows
from auxjax.data.host import HostPipeline
from auxjax.data.sets import DataSet
from auxjax.errors import AuxjaxError


class Pipeline(Protocol):
    """Endless training inputs with a position that resumes exactly, and whole splits to evaluate."""

    def resident(self, split: str) -> Mapping[str, np.ndarray]:
        """Returns the arrays that live on the device for a split; none where every batch comes from the host."""

    def __next__(self) -> dict[str, np.ndarray]:
        """Returns the next training inputs, what `to_batch` takes."""

    def state(self) -> dict[str, Any]:
        """Returns the position after the last inputs handed out, as JSON."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to a position that state() gave."""

    def evaluation(self, split: str) -> Iterator[dict[str, np.ndarray]]:
        """Returns a whole split once, in order; the last batch is filled up and masked, so that all have one shape."""


def open_pipeline(
    dataset: DataSet, config: Mapping[str, Any], seed: int, num_devices: int = 1, rows: Rows | None = None
) -> Pipeline:
    """Returns the pipeline that `config.data.cache` names; raises AuxjaxError where a batch is larger than the set.

    `rows(size)` are those of a batch of that size that this process handles, all of them where it is not given; what
    each of them holds does not depend on which others there are. Evaluation batches, which are filled up and masked
    anyway, are as large as the devices divide.
    """
    config = dict(config) | {"eval_batch_size": -(-config["eval_batch_size"] // num_devices) * num_devices}
    size, batch = len(dataset.split("train")), config["batch_size"]
    if batch > size:
        raise AuxjaxError(f"data.batch_size={batch}, and the training split of {dataset.name!r} has only {size}")
    # NumPy and Grain want seeds that are not negative, and Grain 32 bits; JAX takes any.
    pipeline = DevicePipeline if config["cache"] == "device" else HostPipeline
    return pipeline(dataset, config, seed % 2**32, rows or np.arange)
