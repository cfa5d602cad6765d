"""Inception-ResNet-v2 against the sizes of slim and the weights, outputs and parameter count of timm."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.heads import presets
from auxjax.models import MODELS, InceptionResNetV2
from tests.models.inception_shapes import count, endpoints, from_timm, published_head, shapes
from tests.torch_models import import_torchvision, randomise

# From the comments in slim's inception_resnet_v2: side at 299 px and channels.
ENDPOINTS = {
    "Conv2d_1a_3x3": (149, 32), "Conv2d_2a_3x3": (147, 32), "Conv2d_2b_3x3": (147, 64), "Conv2d_3b_1x1": (73, 80),
    "Conv2d_4a_3x3": (71, 192), "Mixed_5b": (35, 320), "Repeat": (35, 320), "Mixed_6a": (17, 1088),
    "PreAuxLogits": (17, 1088), "Mixed_7a": (8, 2080), "Repeat_2": (8, 2080), "Block8": (8, 2080),
    "Conv2d_7b_1x1": (8, 1536),
}  # fmt: skip
# timm's names.
TIMM = {name: f"conv2d_{name[7:9]}" for name in ENDPOINTS if name.startswith("Conv2d")} | {
    "Mixed_5b": "mixed_5b", "Repeat": "repeat", "Mixed_6a": "mixed_6a", "PreAuxLogits": "repeat_1",
    "Mixed_7a": "mixed_7a", "Repeat_2": "repeat_2", "Block8": "block8", "logits": "classif",
}  # fmt: skip


@cache
def published() -> Any:
    return shapes(InceptionResNetV2(), 299)


def test_parameters_endpoints_and_blocks_are_the_published_ones() -> None:
    variables, taps, logits = published()
    assert count(variables["params"]) == 55_843_464  # timm's inception_resnet_v2
    assert endpoints(taps) == ENDPOINTS
    assert logits.shape == (2, 1000)
    stages = {stage: {name for name in taps[stage] if name != "__call__"} for stage in ("Repeat", "PreAuxLogits")}
    assert stages["Repeat"] == {f"block35_{i}" for i in range(1, 11)}
    assert stages["PreAuxLogits"] == {f"block17_{i}" for i in range(1, 21)}


def test_the_preset_is_inception_v3s_head_on_its_tap() -> None:
    tap, variables = published_head("inception_resnet_v2", published()[1])
    assert tap == (2, 17, 17, 1088)
    # 1x1 to 128, 5x5 to 768, their norms, and the classifier.
    assert count(variables["params"]) == 1088 * 128 + 25 * 128 * 768 + 2 * (128 + 768) + 769 * 1000
    assert presets("inception_resnet_v2")["aux"].weight == 0.4


def test_outputs_are_those_of_timm_on_its_weights() -> None:
    import_torchvision()  # timm does
    timm = pytest.importorskip("timm")
    import torch

    oracle = randomise(timm.create_model("inception_resnet_v2", pretrained=False, num_classes=10))
    oracle.repeat, oracle.repeat_1, oracle.repeat_2 = oracle.repeat[:1], oracle.repeat_1[:1], oracle.repeat_2[:1]
    model = InceptionResNetV2(num_classes=10, blocks=(1, 1, 1))
    variables = shapes(model, 139)[0]
    filled = from_timm(variables, [(ours, getattr(oracle, theirs)) for ours, theirs in TIMM.items()])
    x = np.random.default_rng(0).normal(size=(1, 139, 139, 3)).astype(np.float32)
    expected = oracle(torch.from_numpy(x.transpose(0, 3, 1, 2))).detach().numpy()
    actual = jax.jit(lambda v, x: model.apply(v, x, train=False))(filled, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_computation_is_of_the_wanted_dtype_and_channels_are_free() -> None:
    variables, taps, logits = shapes(InceptionResNetV2(7, (1, 1, 1), dtype=jnp.bfloat16), 75, channels=1)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(taps)} == {jnp.dtype("bfloat16")} == {logits.dtype}
    assert logits.shape == (2, 7)


def test_mistakes_are_one_line_errors() -> None:
    with pytest.raises(AuxjaxError, match="InceptionResNetV2 needs images of at least 75 px, not 74 x 74"):
        shapes(InceptionResNetV2(), 74)
    with pytest.raises(AuxjaxError, match=r"blocks of InceptionResNetV2 are three counts, one a stage, not \(10,\)"):
        shapes(InceptionResNetV2(blocks=(10,)), 75)  # type: ignore[arg-type]


def test_the_registry_names_it() -> None:
    assert MODELS["inception_resnet_v2"] is InceptionResNetV2
