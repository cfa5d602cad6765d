"""Inception v3: Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision", arXiv 1512.00567."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.layers import ConvUnit, check_choice, check_image, same_avg_pool


class Layer(NamedTuple):
    """One convolution unit of a tower: the fields of ConvUnit that differ from layer to layer."""

    name: str
    features: int
    kernel: int | tuple[int, int] = 1
    strides: int = 1
    padding: str = "SAME"


# A tower is a sequence of units; "avg" and "max" stand for its pool, and two units in a tuple both read what is before
# them, their outputs concatenated.
Step = Layer | tuple[Layer, Layer] | str
Tower = tuple[Step, ...]


def tower(
    steps: Tower, unit: Any, x: jax.Array, train: bool, average: Callable[[jax.Array], jax.Array] = same_avg_pool
) -> jax.Array:
    """Runs one tower, its units submodules of the module that calls; "max" is 3x3 with stride 2, "VALID"."""

    def run(layer: Layer, x: jax.Array) -> jax.Array:
        y: jax.Array = unit(*layer[1:], name=layer.name)(x, train=train)
        return y

    for step in steps:
        if isinstance(step, Layer):
            x = run(step, x)
        elif isinstance(step, str):
            x = average(x) if step == "avg" else ops.max_pool(x, (3, 3), strides=(2, 2), padding="VALID")
        else:
            x = jnp.concatenate([run(layer, x) for layer in step], axis=-1)
    return x


class Mixed(nn.Module):
    """Towers side by side, concatenated."""

    towers: Sequence[Tower]
    unit: Any
    average: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        towers = [tower(steps, self.unit, x, train, self.average) for steps in self.towers]
        return jnp.concatenate(towers, axis=-1)


class InceptionV3(nn.Module):
    """Inception v3 without its auxiliary classifier: float[B, H, W, C] to logits float[B, num_classes].

    Table 1 in the form of slim's inception_v3: 1x1 convolution, 3x3 convolution and pool where the table has three
    3x3 convolutions (80, 192 and 288 channels), and widths that the table leaves open. Images have at least 75 px.

    | variant | pools of stride 1 average | dropout | kernels |
    | slim | the pixels there are | 0.2 | He truncated normal, its default; LeCun for the logits |
    | torchvision | nine, zeros outside | 0.5 | normal of 0.1 |

    Endpoints are slim's names, units torchvision's. BatchNorm (epsilon 1e-3) has scale and shift, as in torchvision;
    slim's has no scale. Raises AuxjaxError for an unknown variant and an input that is not of rank 4 or too small.
    """

    num_classes: int = 1000
    variant: str = "slim"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_choice(self, "variant", ("slim", "torchvision"))
        check_image(self, x, smallest=75)
        torchvision = self.variant == "torchvision"
        # torchvision cuts its normal at 2, which is 20 deviations.
        hidden, output = (
            (nn.initializers.normal(0.1),) * 2
            if torchvision
            else (nn.initializers.he_normal(), nn.initializers.lecun_normal())
        )
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        unit: Any = partial(ConvUnit, kernel_init=hidden, axis_name=self.axis_name, **types)
        average = partial(same_avg_pool, count_padding=torchvision)
        x = tower(STEM, unit, x, train)
        for name, towers in BLOCKS.items():
            x = Mixed(towers, unit, average, name=name)(x, train=train)
        x = nn.Dropout(0.5 if torchvision else 0.2, name="dropout")(x.mean((1, 2)), deterministic=not train)
        return nn.Dense(self.num_classes, kernel_init=output, **types, name="fc")(x)


def _block_5(projection: int) -> Sequence[Tower]:
    """Figure 5, whose 3x3 tower has a 5x5 convolution in slim."""
    return (
        (Layer("branch1x1", 64),),
        (Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, 5)),
        (Layer("branch3x3dbl_1", 64), Layer("branch3x3dbl_2", 96, 3), Layer("branch3x3dbl_3", 96, 3)),
        ("avg", Layer("branch_pool", projection)),
    )


def _block_6(channels: int) -> Sequence[Tower]:
    """Figure 6: convolutions factorised into 1x7 and 7x1."""
    return (
        (Layer("branch1x1", 192),),
        (
            Layer("branch7x7_1", channels), Layer("branch7x7_2", channels, (1, 7)),
            Layer("branch7x7_3", 192, (7, 1)),
        ),
        (
            Layer("branch7x7dbl_1", channels), Layer("branch7x7dbl_2", channels, (7, 1)),
            Layer("branch7x7dbl_3", channels, (1, 7)), Layer("branch7x7dbl_4", channels, (7, 1)),
            Layer("branch7x7dbl_5", 192, (1, 7)),
        ),
        ("avg", Layer("branch_pool", 192)),
    )  # fmt: skip


def _block_7() -> Sequence[Tower]:
    """Figure 7: 1x3 and 3x1 side by side."""
    return (
        (Layer("branch1x1", 320),),
        (
            Layer("branch3x3_1", 384),
            (Layer("branch3x3_2a", 384, (1, 3)), Layer("branch3x3_2b", 384, (3, 1))),
        ),
        (
            Layer("branch3x3dbl_1", 448), Layer("branch3x3dbl_2", 384, 3),
            (Layer("branch3x3dbl_3a", 384, (1, 3)), Layer("branch3x3dbl_3b", 384, (3, 1))),
        ),
        ("avg", Layer("branch_pool", 192)),
    )  # fmt: skip


STEM: Tower = (
    Layer("Conv2d_1a_3x3", 32, 3, 2, "VALID"),
    Layer("Conv2d_2a_3x3", 32, 3, 1, "VALID"),
    Layer("Conv2d_2b_3x3", 64, 3),
    "max",
    Layer("Conv2d_3b_1x1", 80),
    Layer("Conv2d_4a_3x3", 192, 3, 1, "VALID"),
    "max",
)
BLOCKS: dict[str, Sequence[Tower]] = {
    "Mixed_5b": _block_5(32),
    "Mixed_5c": _block_5(64),
    "Mixed_5d": _block_5(64),
    "Mixed_6a": (
        (Layer("branch3x3", 384, 3, 2, "VALID"),),
        (
            Layer("branch3x3dbl_1", 64), Layer("branch3x3dbl_2", 96, 3), Layer("branch3x3dbl_3", 96, 3, 2, "VALID"),
        ),
        ("max",),
    ),
    "Mixed_6b": _block_6(128),
    "Mixed_6c": _block_6(160),
    "Mixed_6d": _block_6(160),
    "Mixed_6e": _block_6(192),
    "Mixed_7a": (
        (Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, 3, 2, "VALID")),
        (
            Layer("branch7x7x3_1", 192), Layer("branch7x7x3_2", 192, (1, 7)), Layer("branch7x7x3_3", 192, (7, 1)),
            Layer("branch7x7x3_4", 192, 3, 2, "VALID"),
        ),
        ("max",),
    ),
    "Mixed_7b": _block_7(),
    "Mixed_7c": _block_7(),
}  # fmt: skip
