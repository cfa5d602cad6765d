"""Heads by the name that a config gives them."""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from auxjax import config as configs
from auxjax.errors import unknown
from auxjax.heads.inception import (
    DARTSCifarHead,
    DARTSImageNetHead,
    InceptionV1Head,
    InceptionV1TorchvisionHead,
    InceptionV3Head,
    NASNetHead,
)
from auxjax.heads.presets import PRESETS
from auxjax.heads.probes import FlatLinear, LinearProbe, MLPHead, SDNHead
from auxjax.heads.segmentation import FCNHead, PixelLinear

HEADS: dict[str, type[nn.Module]] = {
    "darts_cifar": DARTSCifarHead,
    "darts_imagenet": DARTSImageNetHead,
    "fcn": FCNHead,
    "flat_linear": FlatLinear,
    "inception_v1": InceptionV1Head,
    "inception_v1_torchvision": InceptionV1TorchvisionHead,
    "inception_v3": InceptionV3Head,
    "linear": LinearProbe,
    "mlp": MLPHead,
    "nasnet": NASNetHead,
    "pixel_linear": PixelLinear,
    "sdn": SDNHead,
}
_KINDS = {module: kind for kind, module in HEADS.items()}


def preset_config(name: str) -> dict[str, dict[str, Any]]:
    """Returns the published heads of a network as a config's `heads`; raises AuxjaxError for an unknown name."""
    if name not in PRESETS:
        raise unknown("preset of heads", name, PRESETS)
    return {
        head: configs.head(p.at, _KINDS[p.module], **{"weight": p.weight, **p.module_fields, **p.head_fields})
        for head, p in PRESETS[name].heads.items()
    }
