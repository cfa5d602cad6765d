"""NASNet-A and DARTS: published counts, sizes of every cell, and NASNet's wiring against timm's module."""

from __future__ import annotations

import functools
import re
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import auxjax
from auxjax.models import DARTS, NASNetA
from auxjax.proof import bare_shapes
from tests.torch_models import import_torchvision, randomise

IMAGE_SIZES = {"nasnet_mobile": 224, "nasnet_large": 331, "nasnet_cifar": 32, "darts_cifar": 32, "darts_imagenet": 224}
MODELS: dict[str, Any] = {
    "nasnet_mobile": NASNetA(), "nasnet_large": NASNetA(variant="large"), "nasnet_cifar": NASNetA(10, variant="cifar"),
    "darts_cifar": DARTS(10), "darts_imagenet": DARTS(1000, variant="imagenet"),
}  # fmt: skip


@functools.cache
def shapes(preset: str) -> Any:
    """The variables' shapes with the preset's head: tracing one of these networks takes seconds."""
    model, size = MODELS[preset], IMAGE_SIZES[preset]
    attached = auxjax.attach(model, auxjax.presets(preset, model.num_classes))
    return jax.eval_shape(attached.init, jax.random.key(0), jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32))


def count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("preset", "parameters", "statistics"),
    [
        # Keras counts 5,326,716 and 88,949,818 with the statistics.
        ("nasnet_mobile", 5_289_978, 36_738),
        pytest.param("nasnet_large", 88_753_150, 196_668, marks=pytest.mark.slow_study),
        pytest.param("nasnet_cifar", 3_346_538, None, marks=pytest.mark.slow_study),  # Table 1: 3.3M
        # Table 1: 3.3M, the authors' module without its head
        pytest.param("darts_cifar", 3_349_342, None, marks=pytest.mark.slow_study),
        ("darts_imagenet", 4_718_752, None),  # Table 3: 4.7M
    ],
)
def test_parameter_counts_are_the_published_ones(preset: str, parameters: int, statistics: Any) -> None:
    variables = auxjax.strip(shapes(preset))
    assert count(variables["params"]) == parameters
    assert statistics in (None, count(variables["batch_stats"]))


@pytest.mark.parametrize(
    ("preset", "channels", "parameters"),
    [
        # The head: 1x1 and 768 features with BatchNorm, on a pooled map of 4, 6, 2, 2 and 2 px.
        ("nasnet_mobile", 528, 528 * 128 + 256 + 16 * 128 * 768 + 1536 + 769_000),
        pytest.param("nasnet_large", 2016, None, marks=pytest.mark.slow_study),
        pytest.param(
            "nasnet_cifar", 384, 384 * 128 + 256 + 16 * 128 * 768 + 1536 + 7_690, marks=pytest.mark.slow_study
        ),
        pytest.param(
            "darts_cifar", 576, 576 * 128 + 256 + 4 * 128 * 768 + 1536 + 7_690, marks=pytest.mark.slow_study
        ),
        ("darts_imagenet", 768, 768 * 128 + 256 + 4 * 128 * 768 + 769_000),
    ],
)
def test_heads_sit_on_the_published_maps(preset: str, channels: int, parameters: Any) -> None:
    head = shapes(preset)["params"]["heads"]["aux"]
    kernels = [leaf.shape for leaf in jax.tree.leaves(head) if leaf.ndim == 4]
    assert (1, 1, channels, 128) in kernels
    # The second kernel covers the pooled map: 4 px of 14, 6 of 21, 4 of 16 and 2 of 8 or 7.
    size = {"nasnet_large": 6, "darts_cifar": 2, "darts_imagenet": 2}.get(preset, 4)
    assert (size, size, 128, 768) in kernels
    assert parameters in (None, count(head))


@pytest.mark.slow_study
def test_cells_halve_and_double_where_they_should() -> None:
    image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    taps = auxjax.list_taps(NASNetA(10, "cifar", filters=4), image)
    cells = {name: shape.shape[1:] for name, shape in taps.items() if re.fullmatch(r"(reduction_)?cell_\d+", name)}
    expected = {f"cell_{i}": (32 >> i // 6, 32 >> i // 6, 6 * 4 * 2 ** (i // 6)) for i in range(18)}
    expected |= {f"reduction_cell_{i}": (16 >> i, 16 >> i, 4 * 8 * 2**i) for i in (0, 1)}
    assert cells == expected
    taps = auxjax.list_taps(DARTS(10, features=4), image)
    cells = {name: shape.shape[1:] for name, shape in taps.items() if re.fullmatch(r"cell_\d+", name)}
    assert cells == {
        f"cell_{i}": (32 >> ((i >= 6) + (i >= 13)), 32 >> ((i >= 6) + (i >= 13)), 16 * 2 ** ((i >= 6) + (i >= 13)))
        for i in range(20)
    }


RULES = (
    (r"sum_(\d)_(left|right)/", r"comb_iter_\1_\2/"), (r"depthwise_(\d)", r"separable_\1/depthwise_conv2d"),
    (r"pointwise_(\d)", r"separable_\1/pointwise_conv2d"), (r"/bn_(\d)/", r"/bn_sep_\1/"),
    (r"before/path(\d)_conv", r"path_\1/conv"), (r"input/", "conv_1x1/"), (r"conv0/", "conv0/conv/"),
    (r"conv0_bn", "conv0/bn"), (r"^logits", "last_linear"),
)  # fmt: skip
LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


@pytest.mark.slow_study
def test_nasnet_large_at_a_small_width_equals_timms() -> None:
    torch = pytest.importorskip("torch")
    import_torchvision()  # which timm imports
    timm = pytest.importorskip("timm.models.nasnet")
    theirs = randomise(timm.NASNetALarge(num_classes=5, num_features=24 * 8, pad_type="same"))
    for module in theirs.modules():
        if type(module).__name__ == "AvgPool2dSame":  # timm's counts the padding, which tf-slim leaves out
            average = module.forward
            module.forward = lambda x, average=average: average(x) / average(torch.ones_like(x))
    state = theirs.state_dict()
    model = NASNetA(5, variant="large", filters=8)
    flat, image = {}, jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    for path, leaf in flax.traverse_util.flatten_dict(bare_shapes(model, image)).items():
        _, *modules, last = path
        name = "/".join([*modules, ""])
        for pattern, replacement in RULES:
            name = re.sub(pattern, replacement, name)
        first = f"{name.split('/')[0]}.path_1.conv.weight" in state
        name = name.replace("before/bn", "final_path_bn") if first else name.replace("before/", "conv_prev_1x1/")
        value = state[name.replace("/", ".") + LEAVES.get(last, last)].numpy()
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        assert value.shape == leaf.shape, name
        flat[path] = value
    # Maps of 41, 21, 11, 6 and 3 px: "SAME" pads the even ones on one side.
    x = np.random.default_rng(0).normal(size=(2, 83, 83, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy()
    run = jax.jit(lambda v, x: model.apply(v, x, train=False))
    actual = run(flax.traverse_util.unflatten_dict(flat), x)
    np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())
