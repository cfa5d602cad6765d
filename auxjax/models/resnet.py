"""ResNet: He et al. 2015, "Deep Residual Learning for Image Recognition", arXiv 1512.03385, as torchvision has it."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.layers import check_choice, check_image

# Table 1: blocks in conv2_x to conv5_x, torchvision's layer1 to layer4.
TABLE_1 = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# torchvision's and the authors' own.
_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or 1x1, 3x3 and 1x1, and a projected shortcut where the shape changes."""

    features: int
    strides: int
    dilation: int
    bottleneck: bool
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        features, strides, dilation = self.features, self.strides, self.dilation
        outputs = 4 * features if self.bottleneck else features
        use = {"use_running_average": not train}
        pad = ((dilation, dilation),) * 2
        if self.bottleneck:
            y = self.norm(relu=True, name="bn1")(self.conv(features, (1, 1), name="conv1")(x), **use)
            # The stride is on the 3x3 convolution, which makes it version 1.5; the paper has it on the first 1x1.
            middle = self.conv(features, (3, 3), strides=strides, padding=pad, kernel_dilation=dilation, name="conv2")
            y = self.norm(relu=True, name="bn2")(middle(y), **use)
            y = self.norm(name="bn3")(self.conv(outputs, (1, 1), name="conv3")(y), **use)
        else:
            first = self.conv(features, (3, 3), strides=strides, padding=((1, 1), (1, 1)), name="conv1")
            y = self.norm(relu=True, name="bn1")(first(x), **use)
            y = self.norm(name="bn2")(self.conv(features, (3, 3), padding=((1, 1), (1, 1)), name="conv2")(y), **use)
        if x.shape[-1] != outputs or strides > 1:
            x = self.conv(outputs, (1, 1), strides=strides, name="downsample_conv")(x)
            x = self.norm(name="downsample_bn")(x, **use)
        return nn.relu(x + y)


class Stage(nn.Module):
    """Blocks of one resolution, `block_0` on; the first has the stride, and with it the dilation before this stage."""

    blocks: int
    features: int
    strides: int
    first_dilation: int
    dilation: int
    bottleneck: bool
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i in range(self.blocks):
            strides, dilation = (self.strides, self.first_dilation) if i == 0 else (1, self.dilation)
            block = Block(self.features, strides, dilation, self.bottleneck, self.conv, self.norm, name=f"block_{i}")
            x = block(x, train=train)
        return x


class ResNetTrunk(nn.Module):
    """ResNet without pooling and classifier: float[B, H, W, C] to layer4's float[B, h, w, 512 or 2048].

    `dilated` keeps layer3 and layer4 at stride 8 with dilations 2 and 4, as segmentation networks have it
    (torchvision's `replace_stride_with_dilation=[False, True, True]`, bottleneck blocks only).
    """

    depth: int = 50
    stem: str = "imagenet"
    dilated: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return _stem_and_stages(self, x, train, self.dilated)


class ResNet(nn.Module):
    """ResNet-18, -34, -50, -101 or -152 (`depth`): float[B, H, W, C] to logits float[B, num_classes].

    Table 1, with the stride of a bottleneck on its 3x3 convolution (version 1.5), as torchvision. `stem="small"`, for
    images of about 28 to 64 px, has a 3x3 conv1 of stride 1 and no pool. Stages are named layer1 to layer4.
    """

    num_classes: int = 1000
    depth: int = 50
    stem: str = "imagenet"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = _stem_and_stages(self, x, train, dilated=False).mean((1, 2))
        return nn.Dense(self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype, name="fc")(x)


def _stem_and_stages(module: Any, x: jax.Array, train: bool, dilated: bool) -> jax.Array:
    """Runs conv1 to layer4 as submodules of `module`, so that they stand at the top of a ResNet."""
    check_choice(module, "depth", TABLE_1)
    check_choice(module, "stem", ("imagenet", "small"))
    check_image(module, x)
    types: dict[str, Any] = {"dtype": module.dtype, "param_dtype": module.param_dtype}
    conv: Any = partial(ops.Conv, use_bias=False, kernel_init=_FAN_OUT, **types)
    norm = partial(ops.BatchNorm, momentum=0.9, epsilon=1e-5, axis_name=module.axis_name, **types)
    large = module.stem == "imagenet"
    kernel, strides, pad = (7, 2, 3) if large else (3, 1, 1)
    x = conv(64, (kernel, kernel), strides=strides, padding=((pad, pad), (pad, pad)), name="conv1")(x)
    x = norm(relu=True, name="bn1")(x, use_running_average=not train)
    if large:
        x = ops.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    dilation = 1
    for i, blocks in enumerate(TABLE_1[module.depth]):
        strides, before = (1 if i == 0 else 2), dilation
        if dilated and i >= 2:
            strides, dilation = 1, 2 * dilation
        stage = Stage(
            blocks, 64 * 2**i, strides, before, dilation, module.depth >= 50, conv, norm, name=f"layer{i + 1}"
        )
        x = stage(x, train=train)
    return x
