"""GoogLeNet against Table 1 of arXiv 1409.4842, published counts, and brute force for its odd layers."""

from __future__ import annotations

from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.layers import ceil_max_pool, local_response_normalization
from auxjax.models import MODELS, GoogLeNet

# From Table 1: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj, output size, parameters as printed.
TABLE = {
    "inception_3a": (64, 96, 128, 16, 32, 32, (28, 28, 256), "159K"),
    "inception_3b": (128, 128, 192, 32, 96, 64, (28, 28, 480), "380K"),
    "inception_4a": (192, 96, 208, 16, 48, 64, (14, 14, 512), "364K"),
    "inception_4b": (160, 112, 224, 24, 64, 64, (14, 14, 512), "437K"),
    "inception_4c": (128, 128, 256, 24, 64, 64, (14, 14, 512), "463K"),
    "inception_4d": (112, 144, 288, 32, 64, 64, (14, 14, 528), "580K"),
    "inception_4e": (256, 160, 320, 32, 128, 128, (14, 14, 832), "840K"),
    "inception_5a": (256, 160, 320, 32, 128, 128, (7, 7, 832), "1072K"),
    "inception_5b": (384, 192, 384, 48, 128, 128, (7, 7, 1024), "1388K"),
}
TOWERS = ("branch_1x1", "branch_3x3", "branch_5x5", "branch_pool_proj")


@cache
def shapes(size: int = 224, channels: int = 3, **fields: Any) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Returns variables, all submodule outputs by name and the logits, as shapes."""
    model = GoogLeNet(**fields)

    def run(key: jax.Array, x: jax.Array) -> Any:
        variables = model.init(key, x, train=False)
        logits, state = model.apply(variables, x, train=False, capture_intermediates=True, mutable=["intermediates"])
        return variables, state["intermediates"], logits

    image = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    return jax.eval_shape(run, jax.eval_shape(lambda: jax.random.key(0)), image)


def count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def row_weights(inputs: int, row: tuple[Any, ...], large: int = 5) -> int:
    one, reduce3, three, reduce5, five, projection = row[:6]
    return inputs * (one + reduce3 + reduce5 + projection) + 9 * reduce3 * three + large**2 * reduce5 * five


def closed_form(per_feature: int, large: int = 5) -> int:
    """All parameters, from Table 1: kernels, and `per_feature` more for each output (bias or norm)."""
    total = 7 * 7 * 3 * 64 + 64 * 64 + 9 * 64 * 192 + per_feature * (64 + 64 + 192)
    inputs = 192
    for row in TABLE.values():
        total += row_weights(inputs, row, large) + per_feature * sum(row[:6])
        inputs = row[6][-1]
    return total + 1024 * 1000 + 1000


def test_parameter_counts_are_the_published_ones() -> None:
    # 6,998,552 is also Caffe's bvlc_googlenet without its heads, 6,624,904 torchvision's without its heads.
    for variant, per_feature, large, published in (
        ("paper", 1, 5, 6_998_552), ("bn", 2, 5, 7_005_832), ("torchvision", 2, 3, 6_624_904),
    ):  # fmt: skip
        params = shapes(variant=variant)[0]["params"]
        assert count(params) == closed_form(per_feature, large) == published


def test_each_row_agrees_with_the_printed_column() -> None:
    params = shapes()[0]["params"]
    kernels = {name: count([u["conv"]["kernel"] for u in params[name].values()]) for name in TABLE}
    inputs = 192
    for name, row in TABLE.items():
        assert kernels[name] == row_weights(inputs, row), name
        # The printed counts (K = 1024, no biases) differ from the printed sizes by up to 7 % (4c).
        assert kernels[name] / 1024 == pytest.approx(int(row[7][:-1]), rel=0.08), name
        inputs = row[6][-1]
    conv2 = count(params["conv2_reduce"]["conv"]["kernel"]) + count(params["conv2"]["conv"]["kernel"])
    assert (conv2, count(params["logits"]["kernel"])) == (112 * 1024, 1000 * 1024)
    # The printed 2.7K of conv1 are a separable convolution (8 filters a channel, then 24 to 64).
    assert round((49 * 3 * 8 + 24 * 64) / 1000, 1) == 2.7
    assert count(params["conv1"]["conv"]["kernel"]) == 9408


@pytest.mark.parametrize("variant", ["paper", "bn", "torchvision"])
def test_output_sizes_are_those_of_table_1(variant: str) -> None:
    _, taps, logits = shapes(variant=variant)
    size = {name: taps[name]["__call__"][0].shape[1:] for name in taps if name != "__call__"}
    stem = {"conv1": (112, 112, 64), "conv2_reduce": (56, 56, 64), "conv2": (56, 56, 192)}
    blocks = {name: row[6] for name, row in TABLE.items()}
    assert size == {**stem, **blocks, "dropout": (1024,), "logits": (1000,)}
    assert logits.shape == (2, 1000)
    for name, row in TABLE.items():
        towers = [taps[name][tower]["__call__"][0].shape[-1] for tower in TOWERS]
        assert towers == [row[0], row[2], row[4], row[5]]
        reduced = [taps[name][f"branch_{k}_reduce"]["__call__"][0].shape[-1] for k in ("3x3", "5x5")]
        assert reduced == [row[1], row[3]]


def test_small_stem_keeps_small_images_alive() -> None:
    names = ("conv1", "conv2", "inception_3a", "inception_4a", "inception_5b")
    for variant in ("paper", "bn", "torchvision"):
        variables, taps, _ = shapes(28, 1, stem="small", variant=variant)
        assert [taps[n]["__call__"][0].shape[1] for n in names] == [
            28,
            14,
            7,
            3 if variant == "torchvision" else 4,
            2,
        ]
        assert variables["params"]["conv1"]["conv"]["kernel"].shape == (3, 3, 1, 64)


def torch_pool(n: int, window: int) -> int:
    """Outputs of torch's ceil mode: a window starts inside, and only while the last did not see the end."""
    return len([start for start in range(0, n, 2) if start == 0 or start - 2 + window < n])


@pytest.mark.parametrize(
    "size", [1, 33, 96, *(pytest.param(n, marks=pytest.mark.slow_study) for n in (7, 31, 64, 75, 97, 225))]
)
def test_any_size_runs_and_halves_as_it_should(size: int) -> None:
    for variant in ("paper", "torchvision"):
        _, taps, logits = shapes(size, variant=variant, num_classes=7)
        assert logits.shape == (2, 7)
        side = [
            taps[n]["__call__"][0].shape[1] for n in ("conv1", "conv2", "inception_3a", "inception_4a", "inception_5a")
        ]
        expected = [-(-size // 2)]
        for window in (3, 3, 3, 2):
            expected.append(torch_pool(expected[-1], window) if variant == "torchvision" else -(-expected[-1] // 2))
        assert side == expected


@pytest.mark.parametrize(("window", "size"), [(3, 1), (3, 2), (3, 5), (3, 6), (3, 7), (2, 5), (2, 6)])
def test_ceil_pool_is_the_maximum_over_what_each_window_sees(window: int, size: int) -> None:
    x = np.random.default_rng(0).normal(size=(1, size, size, 2)).astype(np.float32) - 5.0
    starts = range(0, 2 * torch_pool(size, window), 2)
    expected = np.array([[x[0, i : i + window, j : j + window].max((0, 1)) for j in starts] for i in starts])
    np.testing.assert_array_equal(ceil_max_pool(jnp.asarray(x), window)[0], expected)


def test_paper_forward_concatenates_towers_normalises_and_drops_40_percent() -> None:
    model = GoogLeNet(num_classes=10, stem="small")
    x = jax.random.normal(jax.random.key(1), (4, 16, 16, 1))
    params = shapes(16, 1, num_classes=10, stem="small")[0]["params"]
    rng = np.random.default_rng(0)
    scale = lambda shape: np.sqrt(2 / np.prod(shape[:-1])) if len(shape) > 1 else 0.1  # noqa: E731
    variables = {"params": jax.tree.map(lambda s: np.float32(rng.normal(size=s.shape, scale=scale(s.shape))), params)}

    @jax.jit
    def run(key: jax.Array) -> Any:
        rngs = {"dropout": key}
        return model.apply(variables, x, train=True, rngs=rngs, capture_intermediates=True, mutable=["intermediates"])

    logits, state = run(jax.random.key(2))
    taps = state["intermediates"]
    assert np.isfinite(logits).all()
    block = taps["inception_4a"]
    towers = [block[tower]["__call__"][0] for tower in TOWERS]
    np.testing.assert_array_equal(block["__call__"][0], np.concatenate(towers, -1))
    assert all((tower >= 0).all() and (tower > 0).any() for tower in towers)  # each tap is after its ReLU
    pooled = nn.max_pool(taps["conv1"]["__call__"][0], (3, 3), (2, 2), "SAME")
    reduce = variables["params"]["conv2_reduce"]["conv"]
    expected = jax.nn.relu(
        local_response_normalization(pooled) @ reduce["kernel"][0, 0] + reduce["bias"][None, None, None]
    )
    np.testing.assert_allclose(taps["conv2_reduce"]["__call__"][0], expected, rtol=1e-3, atol=1e-4)
    features, dropped = taps["inception_5b"]["__call__"][0].mean((1, 2)), taps["dropout"]["__call__"][0]
    alive = features > 1e-6
    kept = alive & (dropped != 0)
    np.testing.assert_allclose(dropped[kept], features[kept] / 0.6, rtol=1e-4)
    assert kept.sum() / alive.sum() == pytest.approx(0.6, abs=0.05)
    assert not np.array_equal(logits, run(jax.random.key(3))[0])


@pytest.mark.parametrize("variant", ["paper", "bn"])
def test_parameters_are_float32_and_everything_computed_is_of_the_wanted_dtype(variant: str) -> None:
    variables, taps, logits = shapes(32, variant=variant, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(taps)} == {jnp.dtype("bfloat16")} == {logits.dtype}


def test_unknown_choices_are_one_line_errors_that_name_the_valid_ones() -> None:
    for fields, message in (
        ({"variant": "papr"}, "unknown variant of GoogLeNet 'papr'; did you mean 'paper'\\?"),
        ({"stem": "tiny"}, "unknown stem of GoogLeNet 'tiny'; .*imagenet, small"),
        ({"kernel_init": "xavier"}, "unknown kernel_init of GoogLeNet 'xavier'; valid: default, he, lecun"),
    ):
        with pytest.raises(AuxjaxError, match=message) as error:
            shapes(32, **fields)
        assert "\n" not in str(error.value)
    with pytest.raises(AuxjaxError, match=r"\[B, H, W, C\], not an input of \[2, 784\]"):
        jax.eval_shape(lambda: GoogLeNet().init(jax.random.key(0), jnp.zeros((2, 784)), train=False))


def test_the_registry_names_it() -> None:
    assert MODELS["googlenet"] is GoogLeNet
