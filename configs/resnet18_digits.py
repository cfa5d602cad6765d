"""ResNet-18 with two linear heads on the embedded digits at 32 px, fine-tuned where a torchvision checkpoint is given.

python experiments/train.py --config=configs/resnet18_digits.py --workdir=runs/resnet18_digits \
    --config.pretrained.path=resnet18.pth --config.pretrained.reinitialise=conv1,fc

The digits have one channel and ten classes, so the first and the last layer keep their initial values.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from auxjax import config as configs


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config; `smoke` shrinks it to seconds."""
    config = configs.base()
    config.model = {"name": "resnet", "depth": 18}
    config.heads = {
        "aux1": configs.head(at="layer2", kind="linear", weight=0.3),
        "aux2": configs.head(at="layer3", kind="linear", weight=0.3),
    }
    config.data.update(name="digits", batch_size=64, eval_batch_size=355, image_size=32)
    config.optimizer.update(learning_rate=0.02, nesterov=True, weight_decay=5e-4)
    config.optimizer.schedule.update(name="cosine", warmup_steps=20)
    config.train.total_epochs = 4.0
    return configs.smoke(config) if configs.is_smoke(argument) else config
