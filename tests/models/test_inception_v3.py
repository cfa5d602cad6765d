"""Inception v3 against the sizes of slim, the names and counts of torchvision, and brute force for its pool."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.attach import attach
from auxjax.errors import AuxjaxError
from auxjax.heads import presets
from auxjax.layers import ConvUnit, same_avg_pool
from auxjax.models import MODELS, InceptionV3, inception_v3
from tests.models.inception_shapes import count, endpoints, filled, published_head, shapes
from tests.torch_models import import_torchvision

# From the comments in slim's inception_v3: side at 299 px and channels.
ENDPOINTS = {
    "Conv2d_1a_3x3": (149, 32), "Conv2d_2a_3x3": (147, 32), "Conv2d_2b_3x3": (147, 64), "Conv2d_3b_1x1": (73, 80),
    "Conv2d_4a_3x3": (71, 192), "Mixed_5b": (35, 256), "Mixed_5c": (35, 288), "Mixed_5d": (35, 288),
    **{f"Mixed_6{i}": (17, 768) for i in "abcde"}, "Mixed_7a": (8, 1280), "Mixed_7b": (8, 2048), "Mixed_7c": (8, 2048),
}  # fmt: skip


@cache
def published() -> Any:
    return shapes(InceptionV3(), 299)


def test_parameters_and_endpoints_are_the_published_ones() -> None:
    variables, taps, logits = published()
    assert count(variables["params"]) == 23_834_568
    assert endpoints(taps) == ENDPOINTS
    assert logits.shape == (2, 1000)


def test_the_preset_trains_at_the_published_size_with_the_published_head() -> None:
    variables, taps, _ = published()
    tap, head_variables = published_head("inception_v3", taps)
    assert tap == (2, 17, 17, 768)
    assert count(variables["params"]) + count(head_variables["params"]) == 27_161_264  # torchvision's
    model = attach(InceptionV3(), presets("inception_v3"))
    assert model.heads["aux"].weight == 0.4
    halves = {name: {"model": variables[name], "heads": {"aux": head_variables[name]}} for name in variables}
    x = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
    train = partial(model.apply, train=True, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"])
    outputs, updates = jax.eval_shape(train, halves, x)
    assert {name: value.shape for name, value in outputs.items()} == {"main": (2, 1000), "aux": (2, 1000)}
    assert count(updates["batch_stats"]["heads"]) == 2 * (128 + 768)


def test_names_and_shapes_are_one_to_one_with_torchvision() -> None:
    torchvision = import_torchvision()
    oracle = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False)
    theirs = {name: tuple(value.shape) for name, value in oracle.named_parameters()}
    ours = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(published()[0]["params"]):
        *owner, name = [key.key for key in path]
        order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[leaf.ndim]
        ours[".".join([*owner, name if name == "bias" else "weight"])] = tuple(leaf.shape[i] for i in order)
    assert ours == theirs


@pytest.mark.parametrize("count_padding", [False, True])
def test_average_pool_counts_the_padding_or_not(count_padding: bool) -> None:
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    expected = np.empty_like(x)
    for i in range(4):
        for j in range(5):
            window = x[:, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2]
            expected[:, i, j] = window.sum((1, 2)) / (9 if count_padding else window.shape[1] * window.shape[2])
    actual = same_avg_pool(jnp.asarray(x), count_padding=count_padding)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert same_avg_pool(jnp.ones((1, 3, 3, 1), jnp.bfloat16), count_padding=count_padding).dtype == jnp.bfloat16


@pytest.mark.parametrize(("variant", "corner", "dropped"), [("slim", 1.0, 0.2), ("torchvision", 4 / 9, 0.5)])
def test_variants_differ_in_pool_dropout_and_kernels(
    variant: str, corner: float, dropped: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inception_v3, "BLOCKS", {"Mixed_5b": inception_v3.BLOCKS["Mixed_5b"]})
    pools, rates, kernels = [], [], {}

    def watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if isinstance(module, inception_v3.Mixed):
            pools.append(module.average)
        if isinstance(module, nn.Dropout):
            rates.append(module.rate)
        if isinstance(module, (ConvUnit, nn.Dense)):
            kernels[type(module)] = module.kernel_init
        return call(*args, **kwargs)

    with nn.intercept_methods(watch):
        shapes(InceptionV3(10, variant), 75)
    assert [float(pool(jnp.ones((1, 3, 3, 1)))[0, 0, 0, 0]) for pool in pools] == [pytest.approx(corner)]
    assert rates == [dropped]
    fan_in = 2048
    expected = {ConvUnit: (2 / fan_in) ** 0.5, nn.Dense: (1 / fan_in) ** 0.5} if variant == "slim" else {}
    for layer, init in kernels.items():
        sample = init(jax.random.key(0), (fan_in, 64), jnp.float32)
        assert sample.std() == pytest.approx(expected.get(layer, 0.1), rel=0.02)


def test_a_step_in_training_moves_the_statistics_of_model_and_head(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ("Mixed_6a", "Mixed_6e", "Mixed_7a")
    monkeypatch.setattr(inception_v3, "BLOCKS", {name: inception_v3.BLOCKS[name] for name in kept})
    model = attach(InceptionV3(num_classes=10), presets("inception_v3", num_classes=10))
    x = jax.random.normal(jax.random.key(1), (2, 75, 75, 3))
    variables = filled(jax.eval_shape(lambda: model.init(jax.random.key(0), x)))
    # The tap has 3x3 pixels: the pool shrinks to them, and the 5x5 convolution to the one that is left.
    assert variables["params"]["heads"]["aux"]["conv1"]["conv"]["kernel"].shape == (1, 1, 128, 768)

    @jax.jit
    def run(key: jax.Array) -> Any:
        return model.apply(variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])

    outputs, state = run(jax.random.key(0))
    assert all(np.isfinite(value).all() and np.ptp(value) > 0 for value in outputs.values())
    stats = state["batch_stats"]
    moved = (stats["model"]["Mixed_7a"]["branch7x7x3_4"]["bn"]["mean"], stats["heads"]["aux"]["conv1"]["bn"]["mean"])
    assert all((value != 0).any() for value in moved)


def test_computation_is_of_the_wanted_dtype_and_channels_are_free() -> None:
    variables, taps, logits = shapes(InceptionV3(7, dtype=jnp.bfloat16), 75, channels=1)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(taps)} == {jnp.dtype("bfloat16")} == {logits.dtype}
    assert logits.shape == (2, 7)


def test_mistakes_are_one_line_errors() -> None:
    with pytest.raises(AuxjaxError, match="InceptionV3 needs images of at least 75 px, not 74 x 74"):
        shapes(InceptionV3(), 74)
    with pytest.raises(AuxjaxError, match="unknown variant of InceptionV3 'slimm'; did you mean 'slim'"):
        shapes(InceptionV3(variant="slimm"), 75)


def test_the_registry_names_it() -> None:
    assert MODELS["inception_v3"] is InceptionV3
