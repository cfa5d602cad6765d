"""Heads against their published sizes and counts, and against the same arithmetic written out in numpy."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.heads import (
    HEADS,
    FCNHead,
    Head,
    InceptionV1Head,
    LinearProbe,
    MLPHead,
    cost,
    presets,
)
from auxjax.layers import adaptive_avg_pool
from auxjax.models import GoogLeNet


def spec(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def shapes(module: nn.Module, *shape: int, train: bool = False) -> tuple[Any, Any]:
    def run(x: jax.Array) -> Any:
        variables = module.init(jax.random.key(0), x, train=False)
        call: dict[str, Any] = {"train": train, "mutable": ["intermediates", "batch_stats"]}
        rngs = {"dropout": jax.random.key(1)}
        _, state = module.apply(variables, x, capture_intermediates=True, rngs=rngs, **call)
        return variables, state["intermediates"]

    variables, taps = jax.eval_shape(run, spec(*shape))
    return variables, {name: tap[0] if name == "__call__" else tap["__call__"][0] for name, tap in taps.items()}


def count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_published_counts_of_googlenets_two_heads() -> None:
    model = GoogLeNet(variant="torchvision")
    total = cost(model, spec(1, 64, 64, 3))["params"]
    for name, published in (
        # Caffe's bvlc_googlenet has 13,378,280 parameters with its heads; torchvision's 13,004,888.
        ("googlenet", (3_188_840, 3_190_888)), ("googlenet_torchvision", (3_188_968, 3_191_016)),
    ):  # fmt: skip
        heads = presets(name, 1000)
        assert {n: (h.at, h.weight) for n, h in heads.items()} == {
            "aux1": ("inception_4a", 0.3), "aux2": ("inception_4d", 0.3),
        }  # fmt: skip
        inputs = {"aux1": spec(1, 14, 14, 512), "aux2": spec(1, 14, 14, 528)}
        found = tuple(cost(heads[n].module, inputs[n])["params"] for n in heads)
        assert found == published
    assert total + sum(published) == 13_004_888
    assert cost(GoogLeNet(), spec(1, 64, 64, 3))["params"] + 3_188_840 + 3_190_888 == 13_378_280


def test_flops_of_a_head_are_those_of_its_matrix_products() -> None:
    products = 2 * 16 * (16 * 512 * 128 + 2048 * 1024 + 1024 * 1000)  # batch 16; a multiply-add is two
    found = cost(InceptionV1Head(1000), spec(16, 14, 14, 512))["flops"]
    assert products < found < 1.05 * products
    assert cost(InceptionV1Head(1000), spec(16, 14, 14, 512), train=True)["flops"] > found  # dropout comes on top


@pytest.mark.parametrize(("side", "pooled"), [(14, 4), (17, 5), (8, 2), (7, 1), (5, 1), (4, 1), (3, 1), (2, 1), (1, 1)])
def test_window_of_the_papers_pool_shrinks_to_a_small_input(side: int, pooled: int) -> None:
    variables, taps = shapes(InceptionV1Head(7), 2, side, side, 12)
    assert variables["params"]["dense"]["kernel"].shape == (pooled * pooled * 128, 1024)
    assert taps["__call__"].shape == (2, 7)
    oblong = shapes(InceptionV1Head(7), 2, side, 8, 12)[0]["params"]["dense"]["kernel"]
    assert oblong.shape == (pooled * 2 * 128, 1024)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 6, 7, 14, 17])
def test_adaptive_pool_is_torchs_mean_over_each_window(side: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, side, side + 2, 3)).astype(np.float32)
    actual = adaptive_avg_pool(jnp.asarray(x), 4)
    assert actual.shape == (2, 4, 4, 3)
    for i in range(4):
        for j in range(4):
            rows = slice(int(np.floor(i * side / 4)), int(np.ceil((i + 1) * side / 4)))
            columns = slice(int(np.floor(j * (side + 2) / 4)), int(np.ceil((j + 1) * (side + 2) / 4)))
            np.testing.assert_allclose(actual[:, i, j], x[:, rows, columns].mean((1, 2)), atol=1e-6)


def relu(x: Any) -> Any:
    return np.maximum(x, 0)


def dense(x: np.ndarray, params: Any) -> Any:
    return x @ np.asarray(params["kernel"]) + np.asarray(params["bias"])


def test_papers_head_written_out() -> None:
    module = InceptionV1Head(5, conv_features=6, dense_features=7)
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 4)).astype(np.float32)
    params = jax.tree.map(
        lambda p: np.random.default_rng(p.size).normal(size=p.shape).astype(np.float32),
        shapes(module, 3, 8, 8, 4)[0]["params"],
    )
    pooled = np.stack([[x[:, i : i + 5, j : j + 5].mean((1, 2)) for j in (0, 3)] for i in (0, 3)])
    pooled = pooled.transpose(2, 0, 1, 3)
    hidden = relu(pooled @ params["conv"]["kernel"][0, 0] + params["conv"]["bias"]).reshape(3, -1)
    hidden = relu(hidden @ params["dense"]["kernel"] + params["dense"]["bias"])
    expected = hidden @ params["logits"]["kernel"] + params["logits"]["bias"]
    actual: Any = module.apply({"params": params}, x, train=False)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_torchvisions_head_normalises_with_epsilon_and_momentum() -> None:
    module = HEADS["inception_v1_torchvision"](num_classes=5, conv_features=6, dense_features=7, dropout_rate=0.0)
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype(np.float32) * 0.05  # a 4 px map is its own pool
    variables = jax.jit(lambda key: module.init(key, x, train=False))(jax.random.key(0))
    params = jax.tree.map(lambda p: 30 * p if p.ndim > 1 else p, variables["params"])
    variables = {**variables, "params": params}
    actual, state = module.apply(variables, x, train=True, mutable=["batch_stats"])
    conv = x @ np.asarray(params["conv"]["kernel"])[0, 0]
    mean, var = conv.mean((0, 1, 2)), conv.var((0, 1, 2))
    hidden = relu((conv - mean) / np.sqrt(var + 1e-3)).reshape(3, -1)
    hidden = relu(hidden @ np.asarray(params["dense"]["kernel"]))
    np.testing.assert_allclose(actual, hidden @ np.asarray(params["logits"]["kernel"]), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(state["batch_stats"]["bn"]["mean"], 0.1 * mean, atol=1e-6)
    np.testing.assert_allclose(state["batch_stats"]["bn"]["var"], 0.9 + 0.1 * var, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "conv", "dense", "logits"),
    [
        ("inception_v1", np.sqrt(2 / 256), np.sqrt(2 / 512), np.sqrt(1 / 200)),
        ("inception_v1_torchvision", 0.0088, 0.0088, 0.0088),  # 0.01 cut at two deviations
    ],
)
def test_kernels_have_the_deviation_of_their_initialiser(kind: str, conv: float, dense: float, logits: float) -> None:
    module: Any = HEADS[kind](num_classes=100, conv_features=32, dense_features=200)
    side = {"inception_v1": 14, "inception_v1_torchvision": 4}[kind]
    params = jax.jit(lambda key: module.init(key, jnp.zeros((1, side, side, 256)), train=False))(jax.random.key(0))[
        "params"
    ]
    found = {name: np.std(params[name]["kernel"]) for name in ("conv", "dense", "logits")}
    assert found == pytest.approx({"conv": conv, "dense": dense, "logits": logits}, rel=0.06)


@pytest.mark.parametrize(("kind", "rate"), [("inception_v1", 0.7), ("inception_v1_torchvision", 0.7), ("fcn", 0.1)])
def test_dropout_rate_is_the_published_one_and_acts_in_training_only(kind: str, rate: float) -> None:
    rates = []

    def record(function: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, nn.Dropout):
            rates.append((context.module.rate, kwargs["deterministic"]))
        return function(*args, **kwargs)

    with nn.intercept_methods(record):
        shapes(HEADS[kind](num_classes=3), 2, 6, 6, 4, train=True)
    assert rates == [(rate, True), (rate, False)]  # init, then train


@pytest.mark.parametrize("shape", [(5, 9), (5, 2, 9), (5, 2, 3, 9), (5, 2, 2, 2, 9)])
def test_linear_and_mlp_read_any_rank_by_the_mean_over_positions(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    mean = x.reshape(5, -1, 9).mean(1)

    linear = LinearProbe(3).init(jax.random.key(0), x, train=False)
    expected = dense(mean, linear["params"]["logits"])
    np.testing.assert_allclose(np.asarray(LinearProbe(3).apply(linear, x, train=True)), expected, atol=1e-5)

    module = MLPHead(3, features=(8, 4))
    mlp = module.init(jax.random.key(0), x, train=False)
    hidden = relu(dense(relu(dense(mean, mlp["params"]["dense_1"])), mlp["params"]["dense_2"]))
    expected = dense(hidden, mlp["params"]["logits"])
    np.testing.assert_allclose(np.asarray(module.apply(mlp, x, train=True)), expected, atol=1e-5)


def test_fcn_head_keeps_positions_and_its_published_layers() -> None:
    variables, taps = shapes(FCNHead(21), 2, 28, 30, 1024)
    # torchvision's FCNHead(1024, 21): 3x3 to 256 without bias, norm, 1x1 with bias.
    assert count(variables["params"]) == 9 * 1024 * 256 + 2 * 256 + 256 * 21 + 21
    assert count(variables["batch_stats"]) == 2 * 256
    assert taps["__call__"].shape == (2, 28, 30, 21)


@pytest.mark.parametrize("kind", sorted(HEADS))
def test_every_kind_computes_in_its_dtype_on_float32_parameters(kind: str) -> None:
    variables, taps = shapes(HEADS[kind](num_classes=3, dtype=jnp.bfloat16), 2, 6, 6, 4)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {tap.dtype for tap in taps.values()} == {jnp.dtype("bfloat16")}
    assert taps["__call__"].shape[-1] == 3
    assert "logits" in taps


def test_mistakes_are_one_line_errors() -> None:
    with pytest.raises(AuxjaxError, match="unknown preset of heads 'googlenett'; did you mean 'googlenet'"):
        presets("googlenett", 10)
    with pytest.raises(AuxjaxError, match="unknown pool 'max'; valid: adaptive, avg"):
        shapes(InceptionV1Head(3, pool="max"), 2, 6, 6, 4)
    with pytest.raises(AuxjaxError, match=r"InceptionV1Head reads \[B, H, W, C\], not \[2, 6\]; heads 'linear'"):
        shapes(InceptionV1Head(3), 2, 6)
    with pytest.raises(AuxjaxError, match=r"FCNHead reads \[B, H, W, C\]"):
        shapes(FCNHead(3), 2, 5, 6)


def test_stop_gradient_is_a_bool_or_a_step() -> None:
    module = LinearProbe(3)
    for good in (True, False, {"from_steps": 10}, {"until_steps": 10}):
        assert Head("x", module, stop_gradient=good).stop_gradient == good
    for bad in ({}, {"from_step": 10}, {"from_steps": 1, "until_steps": 2}, 1, None):
        with pytest.raises(AuxjaxError, match=r"head at 'x' must be a bool, \{'from_steps': n\} or"):
            Head("x", module, stop_gradient=bad)  # type: ignore[arg-type]
