"""The configs that the tests of populations share."""

from __future__ import annotations

from typing import Any

from auxjax import config as configs
from auxjax.check import finalize


def config(data_dir: str, **changes: Any) -> Any:
    """A small PlainNet with BatchNorm and one head, 6 steps of digits on one device, everything done every other."""
    made = configs.base()
    made.model = {"name": "plainnet", "depth": 3, "width": 16, "norm": "batch"}
    made.heads = {"aux1": configs.head(at="layer_1", kind="linear")}
    made.data.update(data_dir=data_dir, batch_size=32, eval_batch_size=200)
    made.data.augment.flip = True
    made.parallel.num_devices = 1
    made.train.update(total_epochs=0.0, total_steps=6, eval_epochs=0.0, eval_steps=2, log_steps=1)
    made.train.update(checkpoint_epochs=0.0, checkpoint_steps=4)
    for key, value in changes.items():
        *sections, last = key.split("__")
        section = made
        for name in sections:
            section = section[name]
        with made.unlocked(), made.ignore_type():
            section[last] = value
    return finalize(made)
