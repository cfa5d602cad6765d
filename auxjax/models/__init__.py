"""Models: plain Linen modules, their submodules named as published, that know nothing of auxiliary heads."""

from __future__ import annotations

import flax.linen as nn

from auxjax.models.googlenet import GoogLeNet
from auxjax.models.plainnet import PlainNet

MODELS: dict[str, type[nn.Module]] = {"googlenet": GoogLeNet, "plainnet": PlainNet}
