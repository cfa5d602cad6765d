"""The short run of a small PlainNet on the digits that tests of whole runs change to their needs."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from auxjax import config as configs


def config(data_dir: str, **changes: Any) -> ConfigDict:
    """BatchNorm, flips and one head, 6 steps with a record each, evaluated every other; `changes` by dotted key."""
    made = configs.base()
    made.model = {"name": "plainnet", "depth": 2, "width": 16, "norm": "batch"}
    made.heads = {"aux1": configs.head(at="layer_1", kind="linear")}
    made.data.update(data_dir=data_dir, batch_size=32, eval_batch_size=200)
    made.data.augment.flip = True
    made.train.update(total_epochs=0.0, total_steps=6, eval_epochs=0.0, eval_steps=2, log_steps=1)
    made.train.update(checkpoint_epochs=0.0, checkpoint_steps=1)
    made.update_from_flattened_dict(changes)
    return made
