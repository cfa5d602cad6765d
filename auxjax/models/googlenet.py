"""GoogLeNet (Inception v1): Szegedy et al. 2014, "Going deeper with convolutions", arXiv 1409.4842."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.errors import unknown
from auxjax.layers import ConvUnit, ceil_max_pool, check_choice, check_image, local_response_normalization

# Table 1's columns: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
TABLE_1 = {
    "inception_3a": (64, 96, 128, 16, 32, 32),
    "inception_3b": (128, 128, 192, 32, 96, 64),
    "inception_4a": (192, 96, 208, 16, 48, 64),
    "inception_4b": (160, 112, 224, 24, 64, 64),
    "inception_4c": (128, 128, 256, 24, 64, 64),
    "inception_4d": (112, 144, 288, 32, 64, 64),
    "inception_4e": (256, 160, 320, 32, 128, 128),
    "inception_5a": (256, 160, 320, 32, 128, 128),
    "inception_5b": (384, 192, 384, 48, 128, 128),
}
VARIANTS = ("paper", "bn", "torchvision")
STEMS = ("imagenet", "small")
KERNEL_INITS = {
    "he": nn.initializers.he_normal(),
    "lecun": nn.initializers.lecun_normal(),
    "torchvision": nn.initializers.truncated_normal(0.01),
}


class Inception(nn.Module):
    """Four towers side by side, concatenated: 1x1, 3x3, 5x5, and a projected 3x3 max pool (Figure 2b)."""

    features: tuple[int, int, int, int, int, int]
    large_kernel: int
    unit: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        ch1x1, reduce3x3, ch3x3, reduce5x5, ch5x5, projection = self.features
        branch_1x1 = self.unit(ch1x1, 1, name="branch_1x1")(x, train=train)
        branch_3x3 = self.unit(reduce3x3, 1, name="branch_3x3_reduce")(x, train=train)
        branch_3x3 = self.unit(ch3x3, 3, name="branch_3x3")(branch_3x3, train=train)
        branch_5x5 = self.unit(reduce5x5, 1, name="branch_5x5_reduce")(x, train=train)
        branch_5x5 = self.unit(ch5x5, self.large_kernel, name="branch_5x5")(branch_5x5, train=train)
        branch_pool = ops.max_pool(x, (3, 3), strides=(1, 1), padding="SAME")
        branch_pool = self.unit(projection, 1, name="branch_pool_proj")(branch_pool, train=train)
        return jnp.concatenate([branch_1x1, branch_3x3, branch_5x5, branch_pool], axis=-1)


class GoogLeNet(nn.Module):
    """GoogLeNet without its auxiliary classifiers: float[B, H, W, C] to logits float[B, num_classes].

    | variant | normalisation | pools | dropout | kernels by default |
    | paper | local response, biases | 3x3/2 | 0.4 | He truncated normal; the paper names none |
    | bn | BatchNorm (epsilon 1e-3), no biases | 3x3/2 | 0.4 | the same |
    | torchvision | as bn | ceil mode, 2x2 before 5a | 0.2 | truncated normal of 0.01 |

    torchvision also has 3x3 kernels in the 5x5 branch (pytorch/vision#906) and pads conv1 by 3 on every side.
    With `kernel_init="lecun"`, Flax's own, the paper variant attenuates signal and gradient layer by layer.
    `stem="small"` makes conv1 3x3 with stride 1, for images of about 28 to 64 px; any size works.
    Raises AuxjaxError for an unknown variant, stem or kernel_init and for an input that is not of rank 4.
    Deviation: Table 1 counts 2.7K parameters for conv1, as many as a separable 7x7 has (8 filters a channel,
    then 1x1: 2,712); Figure 3 shows, and everybody builds, a full one of 9,408.
    """

    num_classes: int = 1000
    variant: str = "paper"
    stem: str = "imagenet"
    kernel_init: str = "default"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        kernel_init = self._check(x)
        torchvision = self.variant == "torchvision"
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        unit: Any = partial(
            ConvUnit, padding="SYMMETRIC" if torchvision else "SAME", batch_norm=self.variant != "paper",
            kernel_init=kernel_init, axis_name=self.axis_name, **types,
        )  # fmt: skip
        normalize = local_response_normalization if self.variant == "paper" else lambda x: x
        pool = partial(ceil_max_pool if torchvision else _same_max_pool, window=3)
        last_pool = partial(ceil_max_pool, window=2) if torchvision else pool

        kernel, strides = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = unit(64, kernel, strides, name="conv1")(x, train=train)
        x = normalize(pool(x))
        x = unit(64, 1, name="conv2_reduce")(x, train=train)
        x = unit(192, 3, name="conv2")(x, train=train)
        x = pool(normalize(x))
        for name, features in TABLE_1.items():
            x = Inception(features, 3 if torchvision else 5, unit, name=name)(x, train=train)
            if name == "inception_3b":
                x = pool(x)
            if name == "inception_4e":
                x = last_pool(x)
        x = x.mean(axis=(1, 2))
        x = nn.Dropout(0.2 if torchvision else 0.4, name="dropout")(x, deterministic=not train)
        output = kernel_init if torchvision else nn.initializers.lecun_normal()
        return nn.Dense(self.num_classes, kernel_init=output, **types, name="logits")(x)

    def _check(self, x: jax.Array) -> nn.initializers.Initializer:
        check_choice(self, "variant", VARIANTS)
        check_choice(self, "stem", STEMS)
        check_image(self, x)
        default = "torchvision" if self.variant == "torchvision" else "he"
        name = default if self.kernel_init == "default" else self.kernel_init
        if name not in KERNEL_INITS:
            raise unknown("kernel_init of GoogLeNet", name, ("default", *KERNEL_INITS))
        return KERNEL_INITS[name]


def _same_max_pool(x: jax.Array, window: int) -> jax.Array:
    return ops.max_pool(x, (window, window), strides=(2, 2), padding="SAME")
