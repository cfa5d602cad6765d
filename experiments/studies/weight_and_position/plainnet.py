"""One head on a deep sigmoid network: where, and with what weight? PlainNet of 8 layers on Fashion-MNIST.

python experiments/prepare.py --dataset=fashion_mnist
python experiments/ablate.py --workdir=runs/plainnet --seeds=5 \\
    --config=experiments/studies/weight_and_position/plainnet.py
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from auxjax import config as configs


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config; `smoke` shrinks it to seconds."""
    config = configs.base()
    config.model = {"name": "plainnet", "depth": 8, "width": 128, "activation": "sigmoid", "kernel_init": "lecun"}
    config.heads = {"aux": configs.head(at="layer_4", kind="linear", weight=0.3)}
    config.data.update(name="fashion_mnist", batch_size=128, validation_examples=5000)
    config.optimizer.schedule.name = "constant"
    config.parallel.num_devices = 1
    config.train.update(total_epochs=5.0, eval_epochs=0.0, eval_steps=100, checkpoint_epochs=0.0, keep_best=0)
    config.train.update(checkpoint_percent=100.0, log_steps=100)
    return configs.smoke(config) if configs.is_smoke(argument) else config


def sweep() -> Iterator[dict[str, Any]]:
    """Yields weight x position; weight 0 is the bare network wherever its head sits."""
    yield {"heads.aux.weight": 0.0}
    for at in ("layer_2", "layer_4", "layer_6"):
        for weight in (0.1, 0.3, 0.5):
            yield {"heads.aux.at": at, "heads.aux.weight": weight}
