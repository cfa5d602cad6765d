"""PlainNet: its gradients vanish by default, less so with each cure; its taps are the activated features."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.models import MODELS, PlainNet


@cache
def run(size: int = 12, train: bool = False, **fields: Any) -> tuple[Any, Any, Any]:
    """Returns variables, the activations by name and the gradient of a cross-entropy with random labels."""
    model = PlainNet(**fields)
    x = jax.random.normal(jax.random.key(1), (32, size, size, 1))
    labels = jax.random.randint(jax.random.key(2), (32,), 0, model.num_classes)

    @jax.jit
    def both() -> Any:
        variables = model.init(jax.random.key(0), x, train=False)

        def loss(params: Any) -> Any:
            call: dict[str, Any] = {
                "mutable": ["intermediates", "batch_stats"],
                "capture_intermediates": True,
            }
            logits, state = model.apply({**variables, "params": params}, x, train=train, **call)
            taps = {name: value["__call__"][0] for name, value in state["intermediates"].items() if name != "__call__"}
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean(), taps

        gradient, taps = jax.grad(loss, has_aux=True)(variables["params"])
        return variables, taps, gradient

    return both()


def norms(gradient: Any, depth: int) -> np.ndarray:
    return np.array([np.linalg.norm(gradient[f"layer_{i}"]["linear"]["kernel"]) for i in range(1, depth + 1)])


def test_first_layers_of_the_default_stack_receive_next_to_no_gradient() -> None:
    by_layer = norms(run(width=64)[2], 8)
    assert by_layer[0] < 1e-3 * by_layer[-1]
    assert (by_layer[:-1] < by_layer[1:]).all()  # and each layer less than the one above


@pytest.mark.parametrize(
    "cure",
    [
        {"kernel_init": "glorot_sigmoid"},
        {"residual": True},
        {"norm": "layer"},
        {"norm": "batch", "train": True},
        {"activation": "relu", "kernel_init": "he"},
        {"activation": "tanh", "kernel_init": "glorot"},
    ],
    ids=str,
)
def test_each_cure_brings_the_gradient_back(cure: dict[str, Any]) -> None:
    ratio = (lambda n: n[0] / n[-1])(norms(run(width=64, **cure)[2], 8))
    plain = (lambda n: n[0] / n[-1])(norms(run(width=64)[2], 8))
    assert ratio > 10 * plain  # LayerNorm, the weakest, gives 19 times as much; He and ReLU 25,000


def test_taps_read_activated_features_in_order() -> None:
    variables, taps, _ = run(width=16, depth=3, size=4)
    assert list(taps) == ["layer_1", "layer_2", "layer_3", "logits"]
    params = variables["params"]
    below = np.asarray(jax.random.normal(jax.random.key(1), (32, 4, 4, 1))).reshape(32, -1)
    for i in range(1, 4):
        linear = params[f"layer_{i}"]["linear"]
        below = 1 / (1 + np.exp(-(below @ np.asarray(linear["kernel"]) + np.asarray(linear["bias"]))))
        np.testing.assert_allclose(taps[f"layer_{i}"], below, atol=1e-5)
    logits = below @ np.asarray(params["logits"]["kernel"]) + np.asarray(params["logits"]["bias"])
    np.testing.assert_allclose(taps["logits"], logits, atol=1e-5)


def test_residual_adds_the_input_where_shapes_agree_and_adds_no_parameters() -> None:
    plain, taps, _ = run(width=16, depth=3, size=5)
    residual, added, _ = run(width=16, depth=3, size=5, residual=True)
    assert jax.tree.map(jnp.shape, plain) == jax.tree.map(jnp.shape, residual)
    np.testing.assert_array_equal(added["layer_1"], taps["layer_1"])  # 25 pixels to 16 features
    linear = residual["params"]["layer_2"]["linear"]
    branch = jax.nn.sigmoid(added["layer_1"] @ linear["kernel"] + linear["bias"][None])
    np.testing.assert_allclose(added["layer_2"], added["layer_1"] + branch, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel_init", "deviation"),
    [
        ("lecun", np.sqrt(1 / 144)),
        ("he", np.sqrt(2 / 144)),
        ("glorot", np.sqrt(2 / (144 + 100))),
        ("glorot_sigmoid", 4 * np.sqrt(2 / (144 + 100))),
    ],
)
def test_kernels_have_the_deviation_of_their_initialiser(kernel_init: str, deviation: float) -> None:
    model = PlainNet(depth=1, width=100, kernel_init=kernel_init)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 144)), train=False)
    kernel = variables["params"]["layer_1"]["linear"]["kernel"]
    assert kernel.shape == (144, 100)
    assert np.std(kernel) == pytest.approx(deviation, rel=0.03)


def shapes(shape: tuple[int, ...], **fields: Any) -> tuple[Any, dict[str, Any]]:
    def trace(x: jax.Array) -> Any:
        model = PlainNet(**fields)
        variables = model.init(jax.random.key(0), x, train=False)
        call: dict[str, Any] = {"mutable": ["intermediates"], "capture_intermediates": True}
        return variables, model.apply(variables, x, train=False, **call)[1]["intermediates"]

    variables, taps = jax.eval_shape(trace, jax.ShapeDtypeStruct(shape, jnp.float32))
    return variables, {name: value["__call__"][0] for name, value in taps.items() if name != "__call__"}


@pytest.mark.parametrize(
    ("depth", "sides"),
    [
        (8, [28, 28, 14, 14, 7, 7, 4, 4]),
        (3, [28, 14, 7]),
        (1, [28]),
        (10, [28] * 3 + [14] * 3 + [7] * 3 + [4]),
    ],
)
def test_convolutions_keep_early_resolution_and_pool_three_times_at_most(depth: int, sides: list[int]) -> None:
    variables, taps = shapes((2, 28, 28, 3), kind="conv", depth=depth, width=6, num_classes=5)
    assert [taps[f"layer_{i}"].shape for i in range(1, depth + 1)] == [(2, s, s, 6) for s in sides]
    assert taps["logits"].shape == (2, 5)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == (9 * 3 * 6 + 6) + (depth - 1) * (9 * 6 * 6 + 6) + 6 * 5 + 5


def test_dense_counts_norms_and_dtypes() -> None:
    variables, taps = shapes((2, 5, 5, 2), depth=4, width=6, norm="batch", dtype=jnp.bfloat16)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert count(variables["params"]) == (50 * 6 + 6) + 3 * (6 * 6 + 6) + 4 * 12 + 6 * 10 + 10
    assert count(variables["batch_stats"]) == 4 * 12
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in taps.values()} == {jnp.dtype("bfloat16")}
    default = shapes((1, 28, 28, 1))[0]["params"]  # eight layers of 128, ten classes
    assert count(default) == (784 * 128 + 128) + 7 * (128 * 128 + 128) + 128 * 10 + 10
    layered, _ = shapes((2, 5, 5, 2), depth=4, width=6, norm="layer")
    assert count(layered) == count(variables["params"])


def test_convolution_mean_over_positions_precedes_the_logits() -> None:
    variables, taps, _ = run(size=6, kind="conv", depth=2, width=4)
    dense = variables["params"]["logits"]
    expected = taps["layer_2"].mean((1, 2)) @ dense["kernel"] + dense["bias"][None]
    np.testing.assert_allclose(taps["logits"], expected, atol=1e-5)


def test_unknown_choices_are_errors_that_name_the_field() -> None:
    for fields, message in (
        ({"kind": "convolution"}, "unknown kind of PlainNet 'convolution'"),
        ({"activation": "sigmod"}, "unknown activation of PlainNet 'sigmod'; did you mean 'sigmoid'"),
        (
            {"kernel_init": "xavier"},
            "unknown kernel_init of PlainNet 'xavier'; valid: glorot, glorot_sigmoid, he, lecun",
        ),
        ({"norm": "group"}, "unknown norm of PlainNet 'group'"),
    ):
        with pytest.raises(AuxjaxError, match=message):
            shapes((2, 4), **fields)
    with pytest.raises(AuxjaxError, match=r"reads \[B, H, W, C\], not an input of \[2, 4\]"):
        shapes((2, 4), kind="conv")


def test_the_registry_names_it() -> None:
    assert MODELS["plainnet"] is PlainNet
