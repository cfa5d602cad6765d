"""The short run of a small PlainNet on the digits that tests of whole runs change to their needs."""

from __future__ import annotations

from typing import Any

import pytest
from ml_collections import ConfigDict

import auxjax
from auxjax import config as configs
from auxjax.record import Recorder
from auxjax.storage import PathLike


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


def interrupted(made: Any, workdir: PathLike, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains until a step is done, and is interrupted in the one after it."""
    record = Recorder.step

    def stop(self: Recorder, step: int, values: Any) -> None:
        if step > after:
            raise KeyboardInterrupt
        record(self, step, values)

    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            auxjax.train(made, workdir)


def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without what depends on the machine's speed."""
    return [{k: v for k, v in record.items() if k not in ("steps_per_second", "seconds")} for record in records]
