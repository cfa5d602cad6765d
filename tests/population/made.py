"""The configs that the tests of populations share."""

from __future__ import annotations

from typing import Any

from auxjax.check import finalize
from tests import digits_runs


def config(data_dir: str, **changes: Any) -> Any:
    """A small PlainNet with BatchNorm and one head, 6 steps of digits on one device, everything done every other."""
    made = digits_runs.config(data_dir, **{"model.depth": 3, "parallel.num_devices": 1, "train.checkpoint_steps": 4})
    for key, value in changes.items():
        *sections, last = key.split("__")
        section = made
        for name in sections:
            section = section[name]
        with made.unlocked(), made.ignore_type():
            section[last] = value
    return finalize(made)
