"""Inception v4: Szegedy et al. 2016, "Inception-v4, Inception-ResNet and [...]", arXiv 1602.07261."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax.errors import AuxjaxError
from auxjax.layers import ConvUnit, check_image
from auxjax.models.inception_v3 import STEM, Layer, Tower, tower

# Figure 3: the stem, whose first three convolutions are those of Inception v3.
MIXED_3A: Sequence[Tower] = (("max",), (Layer("Conv2d_0a_3x3", 96, 3, 2, "VALID"),))
MIXED_4A: Sequence[Tower] = (
    (Layer("Conv2d_0a_1x1", 64), Layer("Conv2d_1a_3x3", 96, 3, 1, "VALID")),
    (
        Layer("Conv2d_0a_1x1", 64), Layer("Conv2d_0b_1x7", 64, (1, 7)), Layer("Conv2d_0c_7x1", 64, (7, 1)),
        Layer("Conv2d_1a_3x3", 96, 3, 1, "VALID"),
    ),
)  # fmt: skip
MIXED_5A: Sequence[Tower] = ((Layer("Conv2d_1a_3x3", 192, 3, 2, "VALID"),), ("max",))
# Figures 4 to 8.
INCEPTION_A: Sequence[Tower] = (
    (Layer("Conv2d_0a_1x1", 96),),
    (Layer("Conv2d_0a_1x1", 64), Layer("Conv2d_0b_3x3", 96, 3)),
    (Layer("Conv2d_0a_1x1", 64), Layer("Conv2d_0b_3x3", 96, 3), Layer("Conv2d_0c_3x3", 96, 3)),
    ("avg", Layer("Conv2d_0b_1x1", 96)),
)
REDUCTION_A: Sequence[Tower] = (
    (Layer("Conv2d_1a_3x3", 384, 3, 2, "VALID"),),
    (Layer("Conv2d_0a_1x1", 192), Layer("Conv2d_0b_3x3", 224, 3), Layer("Conv2d_1a_3x3", 256, 3, 2, "VALID")),
    ("max",),
)
INCEPTION_B: Sequence[Tower] = (
    (Layer("Conv2d_0a_1x1", 384),),
    (Layer("Conv2d_0a_1x1", 192), Layer("Conv2d_0b_1x7", 224, (1, 7)), Layer("Conv2d_0c_7x1", 256, (7, 1))),
    (
        Layer("Conv2d_0a_1x1", 192), Layer("Conv2d_0b_7x1", 192, (7, 1)), Layer("Conv2d_0c_1x7", 224, (1, 7)),
        Layer("Conv2d_0d_7x1", 224, (7, 1)), Layer("Conv2d_0e_1x7", 256, (1, 7)),
    ),
    ("avg", Layer("Conv2d_0b_1x1", 128)),
)  # fmt: skip
REDUCTION_B: Sequence[Tower] = (
    (Layer("Conv2d_0a_1x1", 192), Layer("Conv2d_1a_3x3", 192, 3, 2, "VALID")),
    (
        Layer("Conv2d_0a_1x1", 256), Layer("Conv2d_0b_1x7", 256, (1, 7)), Layer("Conv2d_0c_7x1", 320, (7, 1)),
        Layer("Conv2d_1a_3x3", 320, 3, 2, "VALID"),
    ),
    ("max",),
)  # fmt: skip
INCEPTION_C: Sequence[Tower] = (
    (Layer("Conv2d_0a_1x1", 256),),
    (Layer("Conv2d_0a_1x1", 384), (Layer("Conv2d_0b_1x3", 256, (1, 3)), Layer("Conv2d_0c_3x1", 256, (3, 1)))),
    (
        Layer("Conv2d_0a_1x1", 384), Layer("Conv2d_0b_3x1", 448, (3, 1)), Layer("Conv2d_0c_1x3", 512, (1, 3)),
        (Layer("Conv2d_0d_1x3", 256, (1, 3)), Layer("Conv2d_0e_3x1", 256, (3, 1))),
    ),
    ("avg", Layer("Conv2d_0b_1x1", 256)),
)  # fmt: skip


class Branch(nn.Module):
    """One tower as a submodule, its units named as slim names them inside a branch."""

    steps: Tower
    unit: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return tower(self.steps, self.unit, x, train)


class Mixed(nn.Module):
    """Branches side by side, concatenated: `Branch_0` on."""

    towers: Sequence[Tower]
    unit: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return branches(self.towers, self.unit, x, train)


def branches(towers: Sequence[Tower], unit: Any, x: jax.Array, train: bool) -> jax.Array:
    """Runs the towers as submodules `Branch_0`, ... of the module that calls, and concatenates what they give."""
    outputs = [Branch(steps, unit, name=f"Branch_{i}")(x, train=train) for i, steps in enumerate(towers)]
    return jnp.concatenate(outputs, axis=-1)


class InceptionV4(nn.Module):
    """Inception v4 without its auxiliary classifier: float[B, H, W, C] to logits float[B, num_classes].

    Figure 9, `blocks` being its numbers of Inception-A, -B and -C. Endpoints, branches and units have the names of
    slim's inception_v4: Mixed_5b on, Mixed_6b on and Mixed_7b on. Images have at least 75 px. Dropout keeps 0.8.
    BatchNorm (epsilon 1e-3) has scale and shift, as torch and timm have it and count it; slim's has no scale. He
    truncated normals, slim's default; LeCun for the logits.
    Raises AuxjaxError for an input that is not of rank 4 or too small, and where `blocks` are not three.
    """

    num_classes: int = 1000
    blocks: tuple[int, int, int] = (4, 7, 3)
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_image(self, x, smallest=75)
        check_blocks(self)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        unit: Any = partial(ConvUnit, axis_name=self.axis_name, **types)
        x = tower(STEM[:3], unit, x, train)
        for name, towers in self._mixed().items():
            x = Mixed(towers, unit, name=name)(x, train=train)
        x = nn.Dropout(0.2, name="dropout")(x.mean((1, 2)), deterministic=not train)
        return nn.Dense(self.num_classes, **types, name="logits")(x)

    def _mixed(self) -> dict[str, Sequence[Tower]]:
        """Returns the towers of every endpoint, in order."""
        mixed = {"Mixed_3a": MIXED_3A, "Mixed_4a": MIXED_4A}
        groups = ((MIXED_5A, INCEPTION_A), (REDUCTION_A, INCEPTION_B), (REDUCTION_B, INCEPTION_C))
        for number, ((first, repeated), count) in enumerate(zip(groups, self.blocks, strict=True), start=5):
            mixed[f"Mixed_{number}a"] = first
            mixed |= {f"Mixed_{number}{chr(ord('b') + i)}": repeated for i in range(count)}
        return mixed


def check_blocks(module: Any) -> None:
    """Raises AuxjaxError unless the module's `blocks` are three counts."""
    if len(module.blocks) != 3:
        raise AuxjaxError(f"blocks of {type(module).__name__} are three counts, one a stage, not {module.blocks}")
