"""The network of Deeply-Supervised Nets: the count of Network in Network, and torch's functions with random weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.heads import presets
from auxjax.models import DSN, MODELS
from tests.models.inception_shapes import shapes
from tests.models.preset_shapes import train_shapes


def test_parameters_are_those_of_the_authors_file() -> None:
    conv = (75 + 1 + 25 * 96 + 1 + 9 * 192 + 1) * 192
    cccp = 193 * 160 + 161 * 96 + 3 * 193 * 192 + 193 * 10
    heads = 10 * (192 * (32**2 + 16**2 + 8**2) + 3)
    four = dict.fromkeys(("main", "aux1", "aux2", "aux3"), (2, 10))
    # 966,986 is Network in Network's for CIFAR-10.
    assert train_shapes(DSN(), "dsn", 32) == (966_986, heads, four)
    assert conv + cccp == 966_986


def test_companions_are_support_vector_machines_that_fade() -> None:
    heads = presets("dsn", 10).values()
    assert [head.at for head in heads] == ["conv1", "conv2", "conv3"]
    assert {head.loss for head in heads} == {"squared_hinge"}
    assert [head.weight for head in heads] == [{"name": "linear_to_zero", "start": 0.1}] * 3


def test_values_are_torchs_and_taps_are_before_the_relu() -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    model, rng = DSN(4, features=6), np.random.default_rng(0)
    variables = shapes(model, 16)[0]
    variables = jax.tree.map(lambda s: rng.normal(size=s.shape, scale=0.3).astype(np.float32), variables)
    x = rng.normal(size=(2, 16, 13, 3)).astype(np.float32)

    def conv(name: str, y: Any) -> Any:
        kernel, bias = (torch.from_numpy(variables["params"][name][leaf]) for leaf in ("kernel", "bias"))
        return functional.conv2d(y, kernel.permute(3, 2, 0, 1), bias, padding="same")

    y, expected = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), {}
    for block in (1, 2, 3):
        expected[f"conv{block}"] = y = conv(f"conv{block}", y)
        y = conv(f"cccp{2 * block}", conv(f"cccp{2 * block - 1}", y.relu()).relu())
        y = y if block == 3 else functional.max_pool2d(y.relu(), 3, 2, ceil_mode=True)
    logits, state = jax.jit(lambda v, x: model.apply(v, x, train=False, capture_intermediates=True))(variables, x)
    assert expected["conv3"].shape[2:] == (4, 3)
    np.testing.assert_allclose(logits, y.mean((2, 3)).numpy(), atol=1e-4)
    for name, value in expected.items():
        tap = state["intermediates"][name]["__call__"][0]
        np.testing.assert_allclose(tap, value.numpy().transpose(0, 2, 3, 1), atol=1e-4, err_msg=name)


def test_dtype_channels_and_width_are_free() -> None:
    variables, taps, logits = shapes(DSN(7, features=12, dtype=jnp.bfloat16), 9, channels=1)
    assert taps["cccp2"]["__call__"][0].shape == (2, 9, 9, 6)
    assert taps["conv3"]["__call__"][0].shape == (2, 2, 2, 12)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(taps)} == {jnp.dtype("bfloat16")} == {logits.dtype}
    assert logits.shape == (2, 7)
    assert MODELS["dsn"] is DSN
