"""FCN against torchvision's count and names; parity of values is in tests/test_pretrained.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from auxjax.attach import attach
from auxjax.errors import AuxjaxError
from auxjax.heads import presets
from auxjax.models import FCN, MODELS
from tests.models.inception_shapes import count, shapes
from tests.models.preset_shapes import train_shapes


def test_parameters_are_torchvisions() -> None:
    both = {"main": (2, 65, 65, 21), "aux": (2, 9, 9, 21)}
    # fcn_resnet50 with its auxiliary classifier: 35,322,218, of which that one has 9 * 1024 * 256 + 512 + 257 * 21.
    assert train_shapes(FCN(), "fcn", 65) == (35_322_218 - 2_365_205, 2_365_205, both)


def test_the_backbone_keeps_stride_8_in_any_dtype_and_channels() -> None:
    variables, taps, logits = shapes(FCN(5, dtype=jnp.bfloat16), 40, channels=1)
    sides = [taps["backbone"][f"layer{i}"]["__call__"][0].shape[1:] for i in (1, 2, 3, 4)]
    assert sides == [(10, 10, 256), (5, 5, 512), (5, 5, 1024), (5, 5, 2048)]
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(taps)} == {jnp.dtype("bfloat16")} == {logits.dtype}
    assert logits.shape == (2, 40, 40, 5)
    assert set(variables["params"]) == {"backbone", "classifier"}


def test_only_bottlenecks_are_dilated() -> None:
    with pytest.raises(AuxjaxError, match="unknown depth of FCN '18'"):
        shapes(FCN(depth=18), 32)


def test_the_preset_fits_the_model() -> None:
    attached = attach(MODELS["fcn"](num_classes=3), presets("fcn", 3))
    head = attached.heads["aux"]
    assert (head.at, head.weight, head.loss) == ("backbone/layer3", 0.5, "upsampled_cross_entropy")
    assert head.module.features == 256
    assert count(shapes(attached.model, 33)[0]["params"]["classifier"]) == 9 * 2048 * 512 + 1024 + 513 * 3
