"""GoogLeNet with BatchNorm and both auxiliary heads at weight 0.3, ImageNet at 224 px, bfloat16, for several devices.

Prepare imagenet2012 with TensorFlow Datasets in the array_record format, then
python experiments/train.py --config=configs/googlenet_imagenet.py --workdir=runs/googlenet_imagenet
Not trained to its end by the authors yet; its smoke form runs in the tests.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from auxjax import config as configs


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config; `smoke` shrinks it to seconds."""
    config = configs.base()
    config.dtype = "bfloat16"
    config.model = {"name": "googlenet", "variant": "bn", "stem": "imagenet"}
    config.heads = {
        "aux1": configs.head(at="inception_4a", kind="inception_v1", weight=0.3),
        "aux2": configs.head(at="inception_4d", kind="inception_v1", weight=0.3),
    }
    config.data.update(name="imagenet2012", cache="host", image_size=224, num_workers=8)
    config.data.update(batch_size=1024, eval_batch_size=1000)
    config.data.augment.flip = True
    config.optimizer.update(learning_rate=0.4, nesterov=True, weight_decay=1e-4)
    config.optimizer.schedule.update(name="cosine", warmup_epochs=5.0)
    config.train.total_epochs = 90.0
    return configs.smoke(config) if configs.is_smoke(argument) else config
