"""NASNet-A: Zoph et al. 2018, "Learning Transferable Architectures", arXiv 1707.07012; wiring and sizes of tf-slim."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.layers import check_choice, check_image


class Wiring(NamedTuple):
    """A cell: two operations and the states they read for each of five sums, and the states that are concatenated."""

    operations: tuple[str, ...]
    states: tuple[int, ...]
    outputs: tuple[int, ...]


# Figure 4. State 0 is the last cell's output after a 1x1 convolution, state 1 that of the cell before it.
NORMAL = Wiring(
    ("sep_5x5", "sep_3x3", "sep_5x5", "sep_3x3", "avg", "identity", "avg", "avg", "sep_3x3", "identity"),
    (0, 1, 1, 1, 0, 1, 1, 1, 0, 0), (1, 2, 3, 4, 5, 6),
)  # fmt: skip
REDUCTION = Wiring(
    ("sep_5x5", "sep_7x7", "max", "sep_7x7", "avg", "sep_5x5", "identity", "avg", "sep_3x3", "max"),
    (0, 1, 0, 1, 0, 1, 3, 2, 2, 0), (3, 4, 5, 6),
)  # fmt: skip


class Variant(NamedTuple):
    """The numbers of a published network: N cells of F filters, conv0's features per 32 (ImageNet) or per F (CIFAR)."""

    cells: int
    filters: int
    stem_multiplier: int
    dropout_rate: float
    skip_reduction_input: bool
    epsilon: float


VARIANTS = {
    "mobile": Variant(12, 44, 1, 0.5, False, 1e-3),
    "large": Variant(18, 168, 3, 0.5, True, 1e-3),
    "cifar": Variant(18, 32, 3, 0.0, False, 1e-5),
}


class Separable(nn.Module):
    """ReLU, depthwise and 1x1 convolution, BatchNorm, and all of that again: the stride is the first one's."""

    features: int
    kernel_size: int
    strides: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        size = (self.kernel_size, self.kernel_size)
        for i in (1, 2):
            x, channels = nn.relu(x), x.shape[-1]
            strides = self.strides if i == 1 else 1
            x = self.conv(channels, size, strides=strides, feature_group_count=channels, name=f"depthwise_{i}")(x)
            x = self.conv(self.features, (1, 1), name=f"pointwise_{i}")(x)
            x = self.norm(name=f"bn_{i}")(x, use_running_average=not train)
        return x


class Fit(nn.Module):
    """1x1 convolution and BatchNorm, after a ReLU if asked; with `halve`, two of every second pixel, one shifted."""

    features: int
    halve: bool
    relu: bool
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.relu(x) if self.relu else x
        if self.halve:
            shifted = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]
            half = self.features // 2
            path1 = self.conv(half, (1, 1), name="path1_conv")(x[:, ::2, ::2])
            path2 = self.conv(self.features - half, (1, 1), name="path2_conv")(shifted[:, ::2, ::2])
            x = jnp.concatenate([path1, path2], axis=-1)
        else:
            x = self.conv(self.features, (1, 1), name="conv")(x)
        return self.norm(name="bn")(x, use_running_average=not train)


class Cell(nn.Module):
    """A normal or a reduction cell (`strides` 2) on the outputs of the last cell and of the one before."""

    wiring: Wiring
    features: int
    strides: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, before: jax.Array | None, *, train: bool) -> jax.Array:
        if before is None:
            before = x
        elif before.shape[2] != x.shape[2]:
            before = self._fit("before", halve=True)(before, train=train)
        elif before.shape[-1] != self.features:
            before = self._fit("before")(before, train=train)
        states = [self._fit("input")(x, train=train), before]
        for i in range(5):
            left, right = (
                self._operation(self.wiring.operations[j], states, self.wiring.states[j], f"sum_{i}_{side}", train)
                for j, side in ((2 * i, "left"), (2 * i + 1, "right"))
            )
            states.append(left + right)
        outputs = [states[i] for i in self.wiring.outputs]
        if outputs[0].shape[-1] != self.features:  # the stem's output, which nothing has fitted yet
            outputs[0] = self._fit("output", relu=False)(outputs[0], train=train)
        return jnp.concatenate(outputs, axis=-1)

    def _fit(self, name: str, halve: bool = False, relu: bool = True) -> Fit:
        return Fit(self.features, halve, relu, self.conv, self.norm, name=name)

    def _operation(self, name: str, states: list[jax.Array], state: int, scope: str, train: bool) -> jax.Array:
        x, strides = states[state], self.strides if state < 2 else 1
        if name.startswith("sep"):
            separable = Separable(self.features, int(name[-1]), strides, self.conv, self.norm, name=scope)
            return separable(x, train=train)
        if name == "avg":
            x = nn.avg_pool(x, (3, 3), strides=(strides, strides), padding="SAME", count_include_pad=False)
        if name == "max":
            x = ops.max_pool(x, (3, 3), strides=(strides, strides), padding="SAME")
        fits = x.shape[-1] == self.features
        return x if fits else self._fit(scope, relu=name == "identity")(x, train=train)


class NASNetA(nn.Module):
    """NASNet-A (4 @ 1056, 6 @ 4032, or 6 @ 768 for CIFAR): float[B, H, W, C] to logits float[B, num_classes].

    Appendix A.4 and tf-slim's `nasnet.py`: stem cells `cell_stem_0` and `_1` (not for CIFAR), then `cell_0` on, with
    `reduction_cell_0` and `_1` before the cells at one and two thirds. `cells` and `filters` of 0 are the variant's.
    The momentum of BatchNorm is 0.9, where slim has 0.9997 for ImageNet; ScheduledDropPath (section 3) is left out.
    """

    num_classes: int = 1000
    variant: str = "mobile"
    cells: int = 0
    filters: int = 0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_choice(self, "variant", VARIANTS)
        check_image(self, x, smallest=32 if self.variant != "cifar" else 4)
        variant = VARIANTS[self.variant]
        cells, filters = self.cells or variant.cells, self.filters or variant.filters
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")
        conv: Any = partial(ops.Conv, use_bias=False, kernel_init=fan_out, **types)
        norm: Any = partial(
            ops.BatchNorm, momentum=0.9, epsilon=variant.epsilon, axis_name=self.axis_name, **types
        )  # fmt: skip

        def cell(name: str, scale: float, strides: int) -> Any:
            wiring = REDUCTION if strides == 2 else NORMAL
            return Cell(wiring, int(filters * scale), strides, conv, norm, name=name)

        cifar = self.variant == "cifar"
        stem, strides, padding = (filters, 1, "SAME") if cifar else (32, 2, "VALID")
        x = conv(stem * variant.stem_multiplier, (3, 3), strides=strides, padding=padding, name="conv0")(x)
        outputs: list[Any] = [None, norm(name="conv0_bn")(x, use_running_average=not train)]
        if not cifar:
            for i, scale in enumerate((0.25, 0.5)):
                outputs.append(cell(f"cell_stem_{i}", scale, 2)(outputs[-1], outputs[-2], train=train))
        scale, reductions = 1, (cells // 3, 2 * cells // 3)
        for i in range(cells):
            before = outputs[-2]
            if i in reductions:
                scale *= 2
                name = f"reduction_cell_{reductions.index(i)}"
                outputs.append(cell(name, scale, 2)(outputs[-1], before, train=train))
            before = before if variant.skip_reduction_input else outputs[-2]
            outputs.append(cell(f"cell_{i}", scale, 1)(outputs[-1], before, train=train))
        x = nn.relu(outputs[-1]).mean((1, 2))
        x = nn.Dropout(variant.dropout_rate, name="dropout")(x, deterministic=not train)
        return nn.Dense(self.num_classes, **types, name="logits")(x)
