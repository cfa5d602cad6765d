"""A deep network whose early layers starve, rescued by a head on each hidden layer; on the embedded digits.

python experiments/demo.py --workdir=runs/demo                               the comparison of all four arms, five seeds
python experiments/train.py --config=configs/demo.py --workdir=runs/starved  one run with heads: 2 s on two CPU cores
Other arms: configs/demo.py:plain (no heads), :conditioned (ReLU and He, where heads change nothing) and
:conditioned_plain. Test accuracy over five seeds stands in README.md's table.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from auxjax import config as configs
from auxjax.errors import unknown

STARVED: dict[str, Any] = {"depth": 8, "activation": "sigmoid", "kernel_init": "lecun"}
CONDITIONED: dict[str, Any] = {"depth": 6, "activation": "relu", "kernel_init": "he"}
ARMS = {"": STARVED, "plain": STARVED, "conditioned": CONDITIONED, "conditioned_plain": CONDITIONED, "smoke": STARVED}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config of an arm; `smoke` shrinks the first to seconds."""
    if argument not in ARMS:
        raise unknown("config argument", argument, [arm for arm in ARMS if arm])
    config = configs.base()
    config.model = {"name": "plainnet", "width": 128, **ARMS[argument]}
    if not argument.endswith("plain"):
        depth = ARMS[argument]["depth"]
        config.heads = {f"aux{i}": configs.head(at=f"layer_{i}", kind="linear", weight=0.3) for i in range(1, depth)}
    config.data.update(batch_size=64, eval_batch_size=355)
    # Each network's rate suits both of its arms.
    config.optimizer.learning_rate = 0.1 if ARMS[argument] is STARVED else 0.02
    config.optimizer.schedule.name = "constant"
    config.train.update(total_epochs=0.0, total_steps=1200, eval_epochs=0.0, eval_steps=20)
    config.train.update(log_steps=100, checkpoint_epochs=0.0, checkpoint_percent=100.0, keep_best=0)
    return configs.smoke(config) if argument == "smoke" else config
