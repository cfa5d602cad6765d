"""FCN: Long et al. 2015, "Fully Convolutional Networks for Semantic Segmentation", arXiv 1411.4038."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.heads.segmentation import FCNHead
from auxjax.layers import check_choice
from auxjax.models.resnet import ResNetTrunk


class FCN(nn.Module):
    """FCN on a dilated ResNet: float[B, H, W, C] to per-pixel logits float[B, H, W, num_classes].

    A ResNet of stride 8 (`backbone`), on its layer4 a 3x3 convolution to 512 features, BatchNorm, ReLU, dropout 0.1 and
    a 1x1 convolution (`classifier`), resized bilinearly to the input: torchvision's fcn_resnet50 and fcn_resnet101.
    Raises AuxjaxError for another depth than 50, 101 or 152: only bottleneck blocks are dilated.
    Deviation: the paper's networks are VGG-16 with skips from finer layers and learned upsampling (section 4).
    """

    num_classes: int = 21
    depth: int = 50
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_choice(self, "depth", (50, 101, 152))
        common: dict[str, Any] = {
            "dtype": self.dtype, "param_dtype": self.param_dtype, "axis_name": self.axis_name,
        }  # fmt: skip
        features = ResNetTrunk(self.depth, dilated=True, **common, name="backbone")(x, train=train)
        logits = FCNHead(self.num_classes, features=512, **common, name="classifier")(features, train=train)
        return ops.resize_bilinear(logits, x.shape[1:3])
