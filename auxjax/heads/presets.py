"""The heads that networks were published with, by name: taps, modules, initialisers and weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax.errors import unknown
from auxjax.heads.head import Head
from auxjax.heads.inception import (
    DARTSCifarHead,
    DARTSImageNetHead,
    InceptionV1Head,
    InceptionV1TorchvisionHead,
    InceptionV3Head,
    NASNetHead,
)
from auxjax.heads.probes import FlatLinear, SDNHead
from auxjax.heads.segmentation import FCNHead, PixelLinear


class Published(NamedTuple):
    """One published head: its tap, module and weight, and what else differs from a Head's defaults."""

    at: str
    module: type[nn.Module]
    weight: Any
    module_fields: Mapping[str, Any] = {}
    head_fields: Mapping[str, Any] = {}


class Preset(NamedTuple):
    """The heads of one published network: the model by its name in MODELS, the fields it needs, and the source."""

    model: str
    model_fields: Mapping[str, Any]
    heads: Mapping[str, Published]
    source: str


def _deep_supervision(weights: tuple[float, ...]) -> dict[str, Published]:
    """Returns heads on the decoder stages of a U-Net, the lowest first; the weights are from high to low resolution."""
    loss = {"loss": "downsampled_cross_entropy"}
    stages = enumerate(reversed(weights))
    return {f"aux{s + 1}": Published(f"decoder_{s}", PixelLinear, weight, {}, loss) for s, weight in stages}


# Decoder stages of the U-Net of 8 stages that are not the last.
_STAGES = range(1, 7)
_UPSAMPLED = {"loss": "upsampled_cross_entropy"}
# Kaya et al.'s taps in a ResNet-56 and how much of its computation is done by then.
_SDN_TAPS = {
    "layer1/block_3": 0.15, "layer1/block_7": 0.3, "layer2/block_2": 0.45, "layer2/block_6": 0.6,
    "layer3/block_1": 0.75, "layer3/block_5": 0.9,
}  # fmt: skip

PRESETS: dict[str, Preset] = {
    "darts_cifar": Preset(
        "darts", {"variant": "cifar"}, {"aux": Published("cell_13", DARTSCifarHead, 0.4)},
        "Liu et al. 2019, arXiv 1806.09055, appendix A.2.3: after the second reduction, which is cell 2L / 3",
    ),
    "darts_imagenet": Preset(
        "darts", {"variant": "imagenet"}, {"aux": Published("cell_9", DARTSImageNetHead, 0.4)},
        "the authors' train_imagenet.py, after cell 2L / 3",
    ),
    "dsn": Preset(
        "dsn", {},
        {
            f"aux{i}": Published(
                f"conv{i}", FlatLinear, {"name": "linear_to_zero", "start": 0.1}, {}, {"loss": "squared_hinge"}
            )
            for i in (1, 2, 3)
        },
        "Lee et al. 2014, arXiv 1409.5185, section 3: 0.1 (1 - t / N); the released file has weight 1 throughout",
    ),
    "fcn": Preset(
        "fcn", {}, {"aux": Published("backbone/layer3", FCNHead, 0.5, {}, _UPSAMPLED)},
        "torchvision's fcn_resnet50; its reference recipe for the weight, and for ten times the learning rate",
    ),
    "googlenet": Preset(
        "googlenet", {"variant": "paper"},
        {
            "aux1": Published("inception_4a", InceptionV1Head, 0.3),
            "aux2": Published("inception_4d", InceptionV1Head, 0.3),
        },
        "Szegedy et al. 2014, arXiv 1409.4842, section 5",
    ),
    "googlenet_torchvision": Preset(
        "googlenet", {"variant": "torchvision"},
        {
            "aux1": Published("inception_4a", InceptionV1TorchvisionHead, 0.3),
            "aux2": Published("inception_4d", InceptionV1TorchvisionHead, 0.3),
        },
        "torchvision's GoogLeNet, which names no weight: the paper's",
    ),
    "inception_resnet_v2": Preset(
        "inception_resnet_v2", {}, {"aux": Published("PreAuxLogits", InceptionV3Head, 0.4)},
        "tf-slim's inception_resnet_v2; its train_image_classifier for the weight",
    ),
    "inception_v3": Preset(
        "inception_v3", {}, {"aux": Published("Mixed_6e", InceptionV3Head, 0.4)},
        "Szegedy et al. 2015, arXiv 1512.00567, section 4; tf-slim's train_image_classifier for the weight",
    ),
    "inception_v4": Preset(
        "inception_v4", {}, {"aux": Published("Mixed_6h", InceptionV3Head, 0.4)},
        "tf-slim's inception_v4; its train_image_classifier for the weight",
    ),
    "monai_exp": Preset(
        "unet", {"stages": 8}, _deep_supervision(tuple(max(0.5**level, 0.0625) for level in _STAGES)),
        "MONAI's DeepSupervisionLoss, weight_mode='exp': max(1 / 2^l, 1 / 16) at level l, 1 for main",
    ),
    "monai_same": Preset(
        "unet", {"stages": 8}, _deep_supervision((1.0,) * len(_STAGES)),
        "MONAI's DeepSupervisionLoss, weight_mode='same': 1 at every level",
    ),
    "nasnet_cifar": Preset(
        "nasnet_a", {"variant": "cifar"}, {"aux": Published("cell_11", NASNetHead, 0.4)},
        "tf-slim's nasnet, after the cell before the second reduction",
    ),
    "nasnet_large": Preset(
        "nasnet_a", {"variant": "large"}, {"aux": Published("cell_11", NASNetHead, 0.4)},
        "tf-slim's nasnet, after the cell before the second reduction",
    ),
    "nasnet_mobile": Preset(
        "nasnet_a", {"variant": "mobile"}, {"aux": Published("cell_7", NASNetHead, 0.4)},
        "tf-slim's nasnet, after the cell before the second reduction",
    ),
    "nnunet": Preset(
        "unet", {"stages": 8}, _deep_supervision((*(0.5**level for level in _STAGES[:-1]), 0.0)),
        "nnU-Net v2's code, after Isensee et al. 2021, Nature Methods 18: 1 / 2^l at 1 / 2^l of the resolution, the"
        " lowest 0; it then divides all, main's among them, by their sum, where main here has 1",
    ),
    "pspnet": Preset(
        "pspnet", {}, {"aux": Published("backbone/layer3", FCNHead, 0.4, {}, _UPSAMPLED)},
        "Zhao et al. 2017, arXiv 1612.01105, section 3.3; mmsegmentation for the head",
    ),
    "sdn_resnet56": Preset(
        "cifar_resnet", {"depth": 56},
        {
            f"aux{i}": Published(at, SDNHead, {"name": "ramp_up", "start": 0.01, "end": share})
            for i, (at, share) in enumerate(_SDN_TAPS.items(), start=1)
        },
        "Kaya et al. 2019, arXiv 1810.07052, section 5 and code, whose ResNet-56 projects its shortcuts",
    ),
}  # fmt: skip


def presets(name: str, num_classes: int = 1000, dtype: DTypeLike = jnp.float32) -> dict[str, Head]:
    """Returns the published heads of a network by name, from shallow to deep; raises AuxjaxError for an unknown one.

    `dtype` is that of the computation. A preset fits the model it was published with (README, "Models and heads").
    """
    if name not in PRESETS:
        raise unknown("preset of heads", name, PRESETS)
    built = {}
    for head, published in PRESETS[name].heads.items():
        module = published.module(num_classes=num_classes, dtype=dtype, **published.module_fields)
        built[head] = Head(published.at, module, weight=published.weight, **published.head_fields)
    return built
