"""GoogLeNet's layers: local response normalization, BatchNorm and the initialisers of every kernel."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.layers import local_response_normalization
from auxjax.models import GoogLeNet, googlenet


def test_local_response_normalization_is_the_formula_of_alexnet() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 7)) * 60
    k, n, alpha, beta = 2.0, 5, 1e-4, 0.75
    expected = np.empty_like(x)
    for i in range(7):
        near = x[..., max(0, i - n // 2) : min(6, i + n // 2) + 1]
        expected[..., i] = x[..., i] / (k + alpha * (near**2).sum(-1)) ** beta
    actual = local_response_normalization(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    assert local_response_normalization(jnp.ones((1, 3), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.fixture
def two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves two of the nine blocks, so that a test of one layer compiles a small network."""
    kept = {name: googlenet.TABLE_1[name] for name in ("inception_3a", "inception_4e")}
    monkeypatch.setattr(googlenet, "TABLE_1", kept)


@pytest.mark.usefixtures("two_blocks")
def test_batch_norm_has_momentum_and_epsilon_and_moves_in_training_only() -> None:
    model = GoogLeNet(num_classes=10, variant="bn", stem="small")

    @jax.jit
    def run(x: jax.Array) -> Any:
        rngs = {"params": jax.random.key(0), "dropout": jax.random.key(2)}
        variables = model.init(rngs, x, train=False)
        mutable = ["batch_stats", "intermediates"]
        only = lambda module, _: module.path[:1] == ("conv1",)  # noqa: E731
        state = model.apply(variables, x, train=True, rngs=rngs, mutable=mutable, capture_intermediates=only)[1]
        unmoved = model.apply(variables, x, train=False, mutable=["batch_stats"])[1]
        return variables, state, unmoved

    variables, state, unmoved = run(jax.random.normal(jax.random.key(1), (4, 16, 16, 1)) * 0.02)
    assert "bias" not in variables["params"]["conv1"]["conv"]
    for stats in (variables["batch_stats"], unmoved["batch_stats"]):
        assert (stats["conv1"]["bn"]["mean"] == 0).all() and (stats["conv1"]["bn"]["var"] == 1).all()
    before = state["intermediates"]["conv1"]["conv"]["__call__"][0]
    mean, var = before.mean((0, 1, 2)), before.var((0, 1, 2))
    moved = state["batch_stats"]["conv1"]["bn"]
    np.testing.assert_allclose(moved["mean"], 0.1 * mean, atol=1e-5)
    np.testing.assert_allclose(moved["var"], 0.9 + 0.1 * var, rtol=1e-5)
    after = state["intermediates"]["conv1"]["__call__"][0]
    expected = np.maximum((before - mean[None, None, None]) / np.sqrt(var + 1e-3)[None, None, None], 0)
    np.testing.assert_allclose(after, expected, atol=1e-4)


def kernels(params: Any) -> dict[str, Any]:
    flat = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(k.key for k in path): leaf for path, leaf in flat if path[-1].key == "kernel"}


@pytest.mark.usefixtures("two_blocks")
@pytest.mark.parametrize(
    ("fields", "gain"),
    [
        ({}, 2.0),
        pytest.param({"kernel_init": "lecun"}, 1.0, marks=pytest.mark.slow_study),
        pytest.param({"variant": "bn"}, 2.0, marks=pytest.mark.slow_study),
        ({"variant": "torchvision"}, None),
    ],
)
def test_kernels_have_the_deviation_of_their_initialiser(fields: dict[str, Any], gain: float | None) -> None:
    model = GoogLeNet(num_classes=100, stem="small", **fields)
    init = jax.jit(lambda key: model.init(key, jnp.zeros((1, 8, 8, 3)), train=False))
    found = kernels(init(jax.random.key(0))["params"])
    assert len(found) == 3 + 2 * 6 + 1
    for name, kernel in found.items():
        fan_in = np.prod(kernel.shape[:-1])
        expected = np.sqrt((1.0 if name == "logits/kernel" else gain) / fan_in) if gain else 0.01 * 0.8796
        assert np.std(kernel) == pytest.approx(expected, rel=0.1), name
