"""DARTS: Liu et al. 2019, "DARTS: Differentiable Architecture Search", arXiv 1806.09055, the published second cell."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.layers import check_choice, check_image
from auxjax.models.nasnet import Fit, Separable

Genotype = tuple[tuple[str, int], ...]
# Figures 4 and 5, the authors' `DARTS_V2`: two operations and the states they read for each of four sums; a cell's
# output is all four sums.
NORMAL: Genotype = (
    ("sep_3x3", 0), ("sep_3x3", 1), ("sep_3x3", 0), ("sep_3x3", 1), ("sep_3x3", 1), ("skip", 0), ("skip", 0),
    ("dil_3x3", 2),
)  # fmt: skip
REDUCTION: Genotype = (
    ("max", 0), ("max", 1), ("skip", 2), ("max", 1), ("max", 0), ("skip", 2), ("skip", 2), ("max", 1),
)  # fmt: skip
VARIANTS = {"cifar": (36, 20), "imagenet": (48, 14)}


class Dilated(nn.Module):
    """ReLU, a depthwise 3x3 convolution of dilation 2, a 1x1 convolution, BatchNorm."""

    features: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x, channels = nn.relu(x), x.shape[-1]
        x = self.conv(channels, (3, 3), kernel_dilation=2, feature_group_count=channels, name="depthwise")(x)
        x = self.conv(self.features, (1, 1), name="pointwise")(x)
        return self.norm(name="bn")(x, use_running_average=not train)


class DartsCell(nn.Module):
    """A normal or a reduction cell on the outputs of the last cell and of the one before."""

    genotype: Genotype
    features: int
    strides: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, before: jax.Array, *, train: bool) -> jax.Array:
        halve = before.shape[2] != x.shape[2]
        fit = partial(Fit, self.features, relu=True, conv=self.conv, norm=self.norm)
        states = [
            fit(halve=halve, name="preprocess0")(before, train=train),
            fit(halve=False, name="preprocess1")(x, train=train),
        ]
        for i in range(0, len(self.genotype), 2):
            left, right = (self._operation(j, states, train) for j in (i, i + 1))
            states.append(left + right)
        return jnp.concatenate(states[2:], axis=-1)

    def _operation(self, index: int, states: list[jax.Array], train: bool) -> jax.Array:
        (kind, state), name = self.genotype[index], f"op_{index}"
        x, strides = states[state], self.strides if state < 2 else 1
        if kind == "sep_3x3":
            return Separable(self.features, 3, strides, self.conv, self.norm, name=name)(x, train=train)
        if kind == "dil_3x3":
            return Dilated(self.features, self.conv, self.norm, name=name)(x, train=train)
        if kind == "max":
            return ops.max_pool(x, (3, 3), strides=(strides, strides), padding=((1, 1), (1, 1)))
        return x


class DARTS(nn.Module):
    """DARTS's evaluation network, for CIFAR or ImageNet: float[B, H, W, C] to logits float[B, num_classes].

    Appendix A.2: 36 features and 20 cells for CIFAR, 48 and 14 for ImageNet; `cell_0` on, of which those at one and two
    thirds reduce. `features` and `cells` of 0 are the variant's. Strided convolutions are padded as "SYMMETRIC", as the
    authors' torch code. Path dropout (section 3.2, linear in the epoch) is left out.
    """

    num_classes: int = 10
    variant: str = "cifar"
    cells: int = 0
    features: int = 0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_choice(self, "variant", VARIANTS)
        check_image(self, x, smallest=4 if self.variant == "cifar" else 32)
        published, count = VARIANTS[self.variant]
        features, cells = self.features or published, self.cells or count
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv: Any = partial(ops.Conv, use_bias=False, kernel_init=nn.initializers.he_normal(), **types)
        norm: Any = partial(ops.BatchNorm, momentum=0.9, epsilon=1e-5, axis_name=self.axis_name, **types)
        before, x = self._stem(x, features, conv, norm, train)
        for i in range(cells):
            reduction = i in (cells // 3, 2 * cells // 3)
            features *= 2 if reduction else 1
            genotype, strides = (REDUCTION, 2) if reduction else (NORMAL, 1)
            cell = DartsCell(genotype, features, strides, conv, norm, name=f"cell_{i}")
            before, x = x, cell(x, before, train=train)
        return nn.Dense(self.num_classes, **types, name="logits")(x.mean((1, 2)))

    def _stem(self, x: jax.Array, features: int, conv: Any, norm: Any, train: bool) -> tuple[jax.Array, jax.Array]:
        use = {"use_running_average": not train}
        if self.variant == "cifar":
            x = norm(name="stem_bn")(conv(3 * features, (3, 3), name="stem_conv")(x), **use)
            return x, x
        half: Any = partial(conv, kernel_size=(3, 3), strides=2, padding=((1, 1), (1, 1)))
        x = norm(relu=True, name="stem0_bn1")(half(features // 2, name="stem0_conv1")(x), **use)
        before = norm(name="stem0_bn2")(half(features, name="stem0_conv2")(x), **use)
        x = norm(name="stem1_bn")(half(features, name="stem1_conv")(nn.relu(before)), **use)
        return before, x
