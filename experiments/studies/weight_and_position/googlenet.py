"""One head on GoogLeNet: where, and with what weight? Fashion-MNIST at 16 px, the first 120 steps of training.

python experiments/prepare.py --dataset=fashion_mnist
python experiments/ablate.py --workdir=runs/googlenet --seeds=5 --learning_rates=config \\
    --config=experiments/studies/weight_and_position/googlenet.py
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from auxjax import config as configs


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config; `smoke` shrinks it to seconds."""
    config = configs.base()
    config.model = {"name": "googlenet", "variant": "bn", "stem": "small"}
    config.heads = {"aux": configs.head(at="inception_4a", kind="inception_v1", weight=0.3)}
    config.data.update(name="fashion_mnist", batch_size=64, image_size=16, validation_examples=2000)
    config.optimizer.update(learning_rate=0.05, nesterov=True, weight_decay=5e-4)
    config.optimizer.schedule.update(name="cosine", warmup_steps=20)
    config.parallel.num_devices = 1
    config.train.update(total_epochs=0.0, total_steps=120, eval_epochs=0.0, eval_steps=40, keep_best=0)
    config.train.update(checkpoint_epochs=0.0, checkpoint_percent=100.0, log_steps=20)
    return configs.smoke(config) if configs.is_smoke(argument) else config


def sweep() -> Iterator[dict[str, Any]]:
    """Yields weight x position; weight 0 is the bare network wherever its head sits."""
    yield {"heads.aux.weight": 0.0}
    for at in ("inception_3b", "inception_4a", "inception_4d"):
        for weight in (0.1, 0.3, 0.5):
            yield {"heads.aux.at": at, "heads.aux.weight": weight}
