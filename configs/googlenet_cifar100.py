"""GoogLeNet with BatchNorm, small stem and both auxiliary heads at weight 0.3, CIFAR-100, bfloat16, for a GPU or a TPU.

python experiments/prepare.py --dataset=cifar100 --source=cifar-100-binary.tar.gz
python experiments/train.py --config=configs/googlenet_cifar100.py --workdir=runs/googlenet_cifar100
Not trained to its end by the authors yet; its smoke form runs in the tests.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from auxjax import config as configs


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config; `smoke` shrinks it to seconds."""
    config = configs.base()
    config.dtype = "bfloat16"
    config.model = {"name": "googlenet", "variant": "bn", "stem": "small"}
    config.heads = {
        "aux1": configs.head(at="inception_4a", kind="inception_v1", weight=0.3),
        "aux2": configs.head(at="inception_4d", kind="inception_v1", weight=0.3),
    }
    config.data.update(name="cifar100", batch_size=256, eval_batch_size=1000, validation_examples=5000)
    config.data.augment.update(crop_padding=4, flip=True)
    config.optimizer.update(learning_rate=0.1, nesterov=True, weight_decay=5e-4)
    config.optimizer.schedule.update(name="cosine", warmup_epochs=5.0)
    config.train.total_epochs = 200.0
    return configs.smoke(config) if configs.is_smoke(argument) else config
