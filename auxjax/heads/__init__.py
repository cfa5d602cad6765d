"""Heads: auxiliary modules that read a tap of a model, the published ones among them as presets, and what they cost."""

from __future__ import annotations

from auxjax.heads.head import Head, cost
from auxjax.heads.inception import (
    DARTSCifarHead,
    DARTSImageNetHead,
    InceptionV1Head,
    InceptionV1TorchvisionHead,
    InceptionV3Head,
    NASNetHead,
)
from auxjax.heads.presets import PRESETS, presets
from auxjax.heads.probes import FlatLinear, LinearProbe, MLPHead, SDNHead
from auxjax.heads.registry import HEADS, preset_config
from auxjax.heads.segmentation import FCNHead, PixelLinear

__all__ = [
    "HEADS", "PRESETS", "DARTSCifarHead", "DARTSImageNetHead", "FCNHead", "FlatLinear", "Head", "InceptionV1Head",
    "InceptionV1TorchvisionHead", "InceptionV3Head", "LinearProbe", "MLPHead", "NASNetHead", "PixelLinear", "SDNHead",
    "cost", "preset_config", "presets",
]  # fmt: skip
