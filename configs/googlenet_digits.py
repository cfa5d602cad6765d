"""GoogLeNet with BatchNorm, small stem and both auxiliary heads at weight 0.3, on the embedded digits at 28 px.

python experiments/train.py --config=configs/googlenet_digits.py --workdir=runs/googlenet_digits
"""

from __future__ import annotations

from ml_collections import ConfigDict

from auxjax import config as configs


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config; `smoke` shrinks it to seconds."""
    config = configs.base()
    config.model = {"name": "googlenet", "variant": "bn", "stem": "small"}
    config.heads = {
        "aux1": configs.head(at="inception_4a", kind="inception_v1", weight=0.3),
        "aux2": configs.head(at="inception_4d", kind="inception_v1", weight=0.3),
    }
    config.data.update(name="digits", batch_size=64, eval_batch_size=355, image_size=28)
    config.optimizer.update(learning_rate=0.05, nesterov=True, weight_decay=5e-4)
    config.optimizer.schedule.update(name="cosine", warmup_steps=20)
    config.train.total_epochs = 6.0
    return configs.smoke(config) if configs.is_smoke(argument) else config
