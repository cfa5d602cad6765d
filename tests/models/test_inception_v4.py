"""Inception v4 against the sizes of slim and the weights, outputs and parameter count of timm."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.heads import presets
from auxjax.models import MODELS, InceptionV4
from tests.models.inception_shapes import count, endpoints, from_timm, published_head, shapes
from tests.torch_models import import_torchvision, randomise

# From the comments in slim's inception_v4: side at 299 px and channels.
ENDPOINTS = {
    "Conv2d_1a_3x3": (149, 32), "Conv2d_2a_3x3": (147, 32), "Conv2d_2b_3x3": (147, 64), "Mixed_3a": (73, 160),
    "Mixed_4a": (71, 192), "Mixed_5a": (35, 384), **{f"Mixed_5{i}": (35, 384) for i in "bcde"},
    **{f"Mixed_6{i}": (17, 1024) for i in "abcdefgh"}, **{f"Mixed_7{i}": (8, 1536) for i in "abcd"},
}  # fmt: skip


@cache
def published() -> Any:
    return shapes(InceptionV4(), 299)


def test_parameters_endpoints_and_head_are_the_published_ones() -> None:
    variables, taps, logits = published()
    assert count(variables["params"]) == 42_679_816  # timm's inception_v4
    assert endpoints(taps) == ENDPOINTS
    assert logits.shape == (2, 1000)
    branch = taps["Mixed_7b"]["Branch_2"]
    assert [branch[name]["__call__"][0].shape[-1] for name in sorted(branch) if name != "__call__"] == [
        384, 448, 512, 256, 256,
    ]  # fmt: skip


def test_the_preset_is_inception_v3s_head_on_its_tap() -> None:
    tap, variables = published_head("inception_v4", published()[1])
    assert tap == (2, 17, 17, 1024)
    # 1x1 to 128, 5x5 to 768, their norms, and the classifier.
    assert count(variables["params"]) == 1024 * 128 + 25 * 128 * 768 + 2 * (128 + 768) + 769 * 1000
    assert presets("inception_v4")["aux"].weight == 0.4


def test_outputs_are_those_of_timm_on_its_weights() -> None:
    import_torchvision()  # timm does
    timm = pytest.importorskip("timm")
    import torch

    oracle = randomise(timm.create_model("inception_v4", pretrained=False, num_classes=10))
    # One block of each kind in place of 4, 7 and 3.
    kept = (0, 1, 2, 3, 4, 5, 6, 10, 11, 18, 19)
    oracle.features = torch.nn.Sequential(*[oracle.features[i] for i in kept])
    model = InceptionV4(num_classes=10, blocks=(1, 1, 1))
    variables, taps, _ = shapes(model, 139)
    names = [*endpoints(taps)]
    assert names == sorted(names) and len(names) == len(kept)
    filled = from_timm(variables, [*zip(names, oracle.features, strict=True), ("logits", oracle.last_linear)])
    x = np.random.default_rng(0).normal(size=(1, 139, 139, 3)).astype(np.float32)
    expected = oracle(torch.from_numpy(x.transpose(0, 3, 1, 2))).detach().numpy()
    actual = jax.jit(lambda v, x: model.apply(v, x, train=False))(filled, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_computation_is_of_the_wanted_dtype_and_channels_are_free() -> None:
    variables, taps, logits = shapes(InceptionV4(7, (0, 1, 0), dtype=jnp.bfloat16), 75, channels=1)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(taps)} == {jnp.dtype("bfloat16")} == {logits.dtype}
    assert logits.shape == (2, 7) and "Mixed_5b" not in taps and "Mixed_6b" in taps


def test_mistakes_are_one_line_errors() -> None:
    with pytest.raises(AuxjaxError, match="InceptionV4 needs images of at least 75 px, not 74 x 74"):
        shapes(InceptionV4(), 74)
    with pytest.raises(AuxjaxError, match=r"blocks of InceptionV4 are three counts, one a stage, not \(4, 7\)"):
        shapes(InceptionV4(blocks=(4, 7)), 75)  # type: ignore[arg-type]


def test_the_registry_names_it() -> None:
    assert MODELS["inception_v4"] is InceptionV4
