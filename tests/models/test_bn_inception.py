"""BN-Inception against Figure 5 of arXiv 1502.03167, the Caffe model's parameter count, and brute force."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from auxjax import ops
from auxjax.errors import AuxjaxError
from auxjax.layers import ConvUnit
from auxjax.models import MODELS, BNInception, bn_inception
from tests.models.inception_shapes import count, endpoints, filled, shapes

# From Figure 5: #1x1, #3x3 reduce, #3x3, double #3x3 reduce, double #3x3, pool + proj, side and depth of the output.
FIGURE_5 = {
    "inception_3a": (64, 64, 64, 64, 96, 32, (28, 256)),
    "inception_3b": (64, 64, 96, 64, 96, 64, (28, 320)),
    "inception_3c": (0, 128, 160, 64, 96, 0, (14, 576)),
    "inception_4a": (224, 64, 96, 96, 128, 128, (14, 576)),
    "inception_4b": (192, 96, 128, 96, 128, 128, (14, 576)),
    "inception_4c": (160, 128, 160, 128, 160, 96, (14, 576)),
    "inception_4d": (96, 128, 192, 160, 192, 96, (14, 576)),
    "inception_4e": (0, 128, 192, 192, 256, 0, (7, 1024)),
    "inception_5a": (352, 192, 320, 160, 224, 128, (7, 1024)),
    "inception_5b": (352, 192, 320, 192, 224, 128, (7, 1024)),
}


@cache
def published() -> Any:
    return shapes(BNInception(), 224)


def closed_form(conv1: int, per_feature: int, projections: dict[str, int] | None = None) -> int:
    """All parameters, from Figure 5: kernels, and `per_feature` more for each output of a convolution."""
    total = conv1 + 64 * 64 + 9 * 64 * 192 + per_feature * (64 + 64 + 192)
    inputs = 192
    for name, (one, reduce3, three, reduce33, three3, projection, _) in FIGURE_5.items():
        projection = (projections or {}).get(name, projection)
        total += inputs * (one + reduce3 + reduce33 + projection)
        total += 9 * (reduce3 * three + reduce33 * three3 + three3 * three3)
        total += per_feature * (one + reduce3 + three + reduce33 + 2 * three3 + projection)
        inputs = one + three + three3 + (projection or inputs)
    return total + 1025 * 1000


def test_parameter_count_is_that_of_figure_5_and_differs_from_the_caffe_model_as_it_must() -> None:
    separable, full = 7 * 7 * 3 * 8 + 3 * 8 * 64, 7 * 7 * 3 * 64
    assert count(published()[0]["params"]) == closed_form(separable, 2) == 11_188_288
    # The widely used Caffe model has three things more: a full 7x7 conv1, pool projections of 128 in place of 96 in
    # 4c and 4d, which also widen what 4d, 4e and 5a read, and a bias in every convolution, one a feature.
    wider = {"inception_4c": 128, "inception_4d": 128}
    projections = 32 * 2 * (576 + 2) + 32 * (96 + 128 + 160 + 128) + 32 * (128 + 192) + 32 * (352 + 192 + 160 + 128)
    features = closed_form(0, 1, wider) - closed_form(0, 0, wider)
    assert (full - separable, projections, features) == (6_696, 90_240, 10_016)
    assert 11_188_288 + 6_696 + 90_240 + 10_016 == closed_form(full, 3, wider) == 11_295_240


def test_outputs_and_towers_are_those_of_figure_5() -> None:
    _, taps, logits = published()
    stem = {"conv1": (112, 64), "conv2_reduce": (56, 64), "conv2": (56, 192)}
    assert endpoints(taps) == stem | {name: row[-1] for name, row in FIGURE_5.items()}
    assert set(taps) == {"__call__", *endpoints(taps), "logits"}  # no dropout, as section 4.2.1 has it
    assert logits.shape == (2, 1000)
    for name, row in FIGURE_5.items():
        towers = ("1x1", "3x3_reduce", "3x3", "double_3x3_reduce", "double_3x3_1", "pool_proj")
        units = {tower: taps[name].get(f"branch_{tower}") for tower in towers}
        assert tuple(unit["__call__"][0].shape[-1] if unit else 0 for unit in units.values()) == row[:6]


def test_conv1_is_a_7x7_convolution_in_two_factors() -> None:
    unit, conv = partial(ConvUnit), partial(ops.Conv, use_bias=False)
    module = bn_inception.SeparableUnit(5, unit, conv)
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 3))
    variables = filled(jax.eval_shape(lambda: module.init(jax.random.key(1), x, train=False)))
    first = variables["params"]["depthwise"]["kernel"].reshape(7, 7, 3, 8)
    second = variables["params"]["pointwise"]["conv"]["kernel"].reshape(3, 8, 5)
    kernel = jnp.einsum("hwck,ckf->hwcf", first, second)
    y = lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    expected = nn.relu(y / np.sqrt(1 + 1e-3))
    actual: Any = module.apply(variables, x, train=False)
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize(("pool", "one"), [("avg", 2), ("max", 2), ("max", 0)])
def test_a_module_pools_projects_or_passes_through(pool: str, one: int) -> None:
    row = bn_inception.Row(one, 2, 3, 2, 4, pool, 5 if one else 0)
    module = bn_inception.Inception(row, partial(ConvUnit))
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
    variables = filled(jax.eval_shape(lambda: module.init(jax.random.key(1), x, train=False)))
    run = partial(module.apply, train=False, capture_intermediates=True, mutable=["intermediates"])
    y, state = jax.jit(run)(variables, x)
    window, strides = (3, 3), (1, 1) if one else (2, 2)
    if pool == "avg":
        pooled = nn.avg_pool(x, window, strides, "SAME", count_include_pad=False)
    else:
        pooled = nn.max_pool(x, window, strides, "SAME")
    if one:
        kernel = variables["params"]["branch_pool_proj"]["conv"]["kernel"][0, 0]
        pooled = nn.relu(pooled @ kernel / np.sqrt(1 + 1e-3))
    np.testing.assert_allclose(y[..., one + 7 :], pooled, atol=1e-5)
    taps = state["intermediates"]
    towers = ["branch_1x1"] * bool(one) + ["branch_3x3", "branch_double_3x3_2"]
    towers_first = jnp.concatenate([taps[tower]["__call__"][0] for tower in towers], axis=-1)
    np.testing.assert_array_equal(y[..., : one + 7], towers_first)
    assert y.shape[1:3] == ((6, 6) if one else (3, 3))


@pytest.mark.parametrize("size", [1, 33])
def test_any_size_runs(size: int) -> None:
    _, taps, logits = shapes(BNInception(num_classes=7), size, channels=1)
    assert logits.shape == (2, 7)
    names = ("conv1", "conv2", "inception_3a", "inception_4a", "inception_5a")
    halved = [-(-size // 2**i) for i in range(1, 6)]
    assert [endpoints(taps)[name][0] for name in names] == halved


def test_computation_is_of_the_wanted_dtype() -> None:
    variables, taps, logits = shapes(BNInception(dtype=jnp.bfloat16), 32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(taps)} == {jnp.dtype("bfloat16")} == {logits.dtype}


def test_training_moves_the_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {name: bn_inception.FIGURE_5[name] for name in ("inception_3c", "inception_5b")}
    monkeypatch.setattr(bn_inception, "FIGURE_5", kept)
    model = BNInception(num_classes=10)
    x = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))

    variables = filled(shapes(model, 32)[0])
    logits, state = jax.jit(lambda v: model.apply(v, x, train=True, mutable=["batch_stats"]))(variables)
    assert np.isfinite(logits).all() and np.ptp(logits) > 0
    before = jax.tree.leaves(variables["batch_stats"])
    assert all((new != old).any() for new, old in zip(jax.tree.leaves(state["batch_stats"]), before, strict=True))


def test_mistakes_are_one_line_errors() -> None:
    with pytest.raises(AuxjaxError, match=r"BNInception reads images \[B, H, W, C\], not an input of \[2, 784\]"):
        jax.eval_shape(lambda: BNInception().init(jax.random.key(0), jnp.zeros((2, 784)), train=False))


def test_the_registry_names_it() -> None:
    assert MODELS["bn_inception"] is BNInception
