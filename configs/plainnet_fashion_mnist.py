"""PlainNet, 8 sigmoid layers, a linear head on each hidden layer, Fashion-MNIST.

python experiments/prepare.py --dataset=fashion_mnist
python experiments/train.py --config=configs/plainnet_fashion_mnist.py --workdir=runs/plainnet_fashion_mnist
"""

from __future__ import annotations

from ml_collections import ConfigDict

from auxjax import config as configs


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config; `smoke` shrinks it to seconds."""
    config = configs.base()
    config.model = {"name": "plainnet", "depth": 8, "width": 128, "activation": "sigmoid", "kernel_init": "lecun"}
    config.heads = {f"aux{i}": configs.head(at=f"layer_{i}", kind="linear", weight=0.3) for i in range(1, 8)}
    config.data.name = "fashion_mnist"
    config.optimizer.schedule.name = "constant"
    config.train.total_epochs = 5.0
    return configs.smoke(config) if configs.is_smoke(argument) else config
