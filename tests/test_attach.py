"""Contracts 1 and 2: attaching touches nothing, and variables have two halves."""

from __future__ import annotations

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import auxjax
from auxjax.errors import AuxjaxError
from auxjax.heads import HEADS, Head, LinearProbe
from tests.foreign_model import StrangersNet

X = jax.random.normal(jax.random.key(7), (4, 8, 8, 3))
RNGS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
TAPS = [
    "conv_init", "bn_init", "CheckpointBottleneckBlock_0", "CheckpointBottleneckBlock_0/Conv_1", "JitBottleneckBlock_0",
    "JitBottleneckBlock_0/BatchNorm_1", "shared#0", "shared#1", "layers[0][0]", "layers[0][2]", "layers[0][-1]",
    "layers/Dense_0[1]", "layers[1][norm][2]", "neck[0]", "neck[1][wide]", "neck[1][narrow]", "neck.reduce#1",
    "Dropout_1", ".",
]  # fmt: skip


def equal(a: Any, b: Any) -> None:
    chex.assert_trees_all_equal_structs(a, b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def probe(at: str, **fields: Any) -> Head:
    return Head(at, LinearProbe(num_classes=5), **fields)


@pytest.fixture(scope="module")
def bare() -> tuple[nn.Module, Any]:
    model = StrangersNet()
    return model, jax.jit(lambda: model.init(RNGS, X, train=False))()


def all_taps(model: nn.Module) -> auxjax.attach.Attached:  # type: ignore[name-defined]
    return auxjax.attach(model, {f"head_{i}": probe(at) for i, at in enumerate(TAPS)})


@pytest.fixture(scope="module")
def attached(bare: tuple[nn.Module, Any]) -> tuple[Any, Any]:
    both = all_taps(bare[0])
    return both, jax.jit(lambda: both.init(RNGS, X))()


def test_initial_variables_are_the_bare_models_bit_for_bit(bare: Any, attached: Any) -> None:
    equal(auxjax.strip(attached[1]), dict(bare[1]))


def test_every_kind_of_tap_feeds_a_head(attached: Any) -> None:
    model, variables = attached
    outputs, updates = jax.jit(
        lambda v: model.apply(v, X, train=True, rngs={"dropout": RNGS["dropout"]}, mutable=["batch_stats"])
    )(variables)
    assert set(outputs) == {"main", *model.heads}
    assert all(np.isfinite(output).all() for output in outputs.values())
    assert set(updates) == {"batch_stats"}


def test_training_outputs_gradients_and_statistics_are_the_bare_models_bit_for_bit(bare: Any, attached: Any) -> None:
    model, variables = attached
    rngs = {"dropout": RNGS["dropout"]}

    def loss_bare(params: Any) -> Any:
        out, state = bare[0].apply({**bare[1], "params": params}, X, train=True, rngs=rngs, mutable=["batch_stats"])
        return (out**2).sum(), (out, state["batch_stats"])

    def loss_attached(params: Any) -> Any:
        both = {**variables, "params": {**variables["params"], "model": params}}
        out, state = model.apply(both, X, train=True, rngs=rngs, mutable=["batch_stats"])
        return (out["main"] ** 2).sum(), (out["main"], state["batch_stats"]["model"])

    plain = jax.jit(jax.grad(loss_bare, has_aux=True))(bare[1]["params"])
    equal(jax.jit(jax.grad(loss_attached, has_aux=True))(bare[1]["params"]), plain)


def test_inference_computes_no_head_and_equals_the_bare_model(bare: Any, attached: Any) -> None:
    model, variables = attached
    with_heads = jax.jit(lambda v: model.apply(v, X, train=False)).lower(variables)
    alone = jax.jit(lambda v: {"main": bare[0].apply(v, X, train=False)}).lower(bare[1])
    assert with_heads.as_text() == alone.as_text()
    # The cache of nn.jit must not serve the trace made with captured outputs to the one without, or the reverse.
    rngs = {"dropout": RNGS["dropout"]}
    jax.eval_shape(lambda: model.apply(variables, X, train=True, rngs=rngs, mutable=["batch_stats"]))
    assert list(model.apply(variables, X, train=False)) == ["main"]


def test_a_head_can_be_evaluated_by_name(attached: Any) -> None:
    model, variables = attached
    outputs = model.apply(variables, X, train=False, heads=["head_0"])
    assert list(outputs) == ["main", "head_0"]
    with pytest.raises(AuxjaxError, match=r"unknown head 'head_x'.*did you mean"):
        model.apply(variables, X, train=True, heads=["head_x"])


def test_taps_read_what_the_submodule_returned(bare: Any) -> None:
    model, variables = bare
    _, state = model.apply(variables, X, train=False, capture_intermediates=True, mutable=["intermediates"])
    seen = state["intermediates"]

    class Identity(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return x

    expected = {
        "shared#1": seen["shared"]["__call__"][1],
        "layers[0][2]": seen["layers"]["__call__"][0][0][2],
        "layers[1][norm][1]": seen["layers"]["__call__"][0][1]["norm"][1],
        "neck[1][wide]": seen["neck"]["__call__"][0][1]["wide"],
    }
    model_with = auxjax.attach(model, {f"h{i}": Head(at, Identity()) for i, at in enumerate(expected)})
    outputs = model_with.apply(model_with.init(RNGS, X), X, train=False, heads=list(model_with.heads))
    for i, value in enumerate(expected.values()):
        np.testing.assert_allclose(outputs[f"h{i}"], value, rtol=1e-5, atol=1e-6)


def test_heads_draw_bits_of_their_own() -> None:
    """A second head, and a head's dropout, change neither the model's bits nor the first head's."""

    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool) -> jax.Array:
            return nn.Dropout(0.5)(nn.Dense(5)(x.reshape(x.shape[0], -1)), deterministic=not train)

    one = auxjax.attach(StrangersNet(), {"a": Head("shared#1", Noisy())})
    two = auxjax.attach(StrangersNet(), {"b": Head("conv_init", Noisy()), "a": Head("shared#1", Noisy())})
    v1, v2 = one.init(RNGS, X), two.init(RNGS, X)
    equal(v1["params"]["heads"]["a"], v2["params"]["heads"]["a"])
    rngs = {"dropout": RNGS["dropout"]}
    out1, out2 = (m.apply(v, X, train=True, rngs=rngs, mutable=["batch_stats"])[0] for m, v in ((one, v1), (two, v2)))
    equal(out1["a"], out2["a"])
    equal(out1["main"], out2["main"])


def test_stop_gradient_fixed_and_by_step() -> None:
    stops = {"flows": False, "stopped": True, "late": {"from_steps": 3}, "early": {"until_steps": 3}}
    model = auxjax.attach(StrangersNet(), {name: probe("shared#0", stop_gradient=stop) for name, stop in stops.items()})
    variables = jax.jit(model.init)(RNGS, X)

    @jax.jit
    def gradient(step: Any, chosen: Any) -> Any:
        def loss(params: Any) -> Any:
            both = {**variables, "params": params}
            out, _ = model.apply(both, X, train=True, rngs=RNGS, mutable=["batch_stats"], step=step)
            return sum(chosen[name] * out[name].sum() for name in stops)

        return jax.grad(loss)(variables["params"])

    def trunk(name: str, step: int) -> bool:
        grads = gradient(step, {other: float(other == name) for other in stops})
        assert all(np.abs(g).sum() > 0 for g in jax.tree.leaves(grads["heads"][name]))
        return bool(sum(np.abs(g).sum() for g in jax.tree.leaves(grads["model"])) > 0)

    assert [trunk("flows", 0), trunk("stopped", 0)] == [True, False]
    assert [trunk("late", 2), trunk("late", 3)] == [True, False]
    assert [trunk("early", 2), trunk("early", 3)] == [False, True]


def test_a_gradient_stopped_by_step_needs_the_step() -> None:
    model = auxjax.attach(StrangersNet(), {"aux": probe("shared#0", stop_gradient={"from_steps": 3})})
    with pytest.raises(AuxjaxError, match="pass step="):
        jax.eval_shape(lambda: model.apply(model.init(RNGS, X), X, train=True, rngs=RNGS, mutable=["batch_stats"]))


def test_other_methods_of_the_model() -> None:
    model = auxjax.attach(StrangersNet(), {"aux": probe("conv_init")})
    variables = model.init(RNGS, X, method="features")
    outputs = model.apply(variables, X, train=True, method="features", rngs={"dropout": RNGS["dropout"]})
    assert set(outputs) == {"main", "aux"}


def test_list_taps_names_every_tap_with_its_shape() -> None:
    taps = auxjax.list_taps(StrangersNet(), X)
    assert taps["conv_init"].shape == (4, 4, 4, 8)
    assert taps["shared#0"].shape == taps["shared#1"].shape == (4, 16)
    assert taps["layers[0]"].shape == (3, 4, 16)
    assert taps["neck[1][wide]"].shape == (4, 16)
    assert taps["neck.reduce#0"].shape == (4, 8)
    assert next(iter(taps)) == "conv_init"
    assert "conv_init" in str(taps)
    listed = set(taps)
    assert {at.replace("[0][0]", "[0]") for at in TAPS if "layers[0]" not in at and "norm" not in at} - {
        "layers/Dense_0[1]"
    } <= listed


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("conv_inti", "no tap 'conv_inti' in StrangersNet; did you mean 'conv_init'"),
        ("shared", "called 2 times; pick one of 'shared#0', 'shared#1'"),
        ("shared#2", "picks call 2 of 2"),
        ("neck", r"gives a tuple; pick one of its arrays: 'neck\[0\]', 'neck\[1\]\[narrow\]'"),
        ("neck[1][wise]", r"no entry \[wise\]; there are: \[narrow\], \[wide\]"),
        ("layers[0][3]", r"no entry \[3\]"),
        ("neck[", "not of the form"),
        ("neck.redcue", "no tap 'neck.redcue'.*did you mean 'neck.reduce"),
    ],
)
def test_a_wrong_tap_is_one_line_with_the_nearest(at: str, message: str) -> None:
    with pytest.raises(AuxjaxError, match=message) as error:
        jax.eval_shape(auxjax.attach(StrangersNet(), {"aux": probe(at)}).init, RNGS, X)
    assert "\n" not in str(error.value)


def test_a_scan_that_hides_its_layers_says_what_to_add() -> None:
    with pytest.raises(AuxjaxError, match="'intermediates': 0"):
        jax.eval_shape(auxjax.attach(StrangersNet(hide_scan=True), {"aux": probe("layers[0][0]")}).init, RNGS, X)


@pytest.mark.parametrize("name", ["main", "", "a/b"])
def test_reserved_names_of_heads(name: str) -> None:
    with pytest.raises(AuxjaxError, match="cannot be named"):
        auxjax.attach(StrangersNet(), {name: probe("conv_init")})


def test_strip_refuses_what_has_no_halves(bare: Any) -> None:
    with pytest.raises(AuxjaxError, match="no halves"):
        auxjax.strip(bare[1])


def test_training_stripped_variables_names_the_missing_head(attached: Any) -> None:
    model, variables = attached
    stripped = {c: {"model": v["model"], "heads": {}} for c, v in variables.items()}
    with pytest.raises(AuxjaxError, match="no head 'head_0'"):
        jax.eval_shape(lambda: model.apply(stripped, X, train=True, rngs=RNGS, mutable=["batch_stats"]))


def test_a_plain_linen_module_is_a_head_and_init_is_jittable() -> None:
    model = auxjax.attach(StrangersNet(), {"aux": Head("shared#1", nn.Dense(5))})
    eager, jitted = model.init(RNGS, X), jax.jit(model.init)(RNGS, X)
    np.testing.assert_allclose(
        eager["params"]["heads"]["aux"]["kernel"], jitted["params"]["heads"]["aux"]["kernel"], rtol=1e-6
    )
    assert model.apply(eager, X, train=True, rngs={"dropout": RNGS["dropout"]}, mutable=["batch_stats"])[0][
        "aux"
    ].shape == (4, 5)


def test_tabulate_has_the_model_and_each_head() -> None:
    table = auxjax.attach(StrangersNet(), {"aux": probe("conv_init")}).tabulate(RNGS, X)
    assert "bn_init" in table
    assert "head aux at conv_init" in table


def test_every_head_kind_trains_on_a_map() -> None:
    for kind in sorted(HEADS):
        head = Head("conv_init", HEADS[kind](num_classes=5))
        model = auxjax.attach(StrangersNet(), {"aux": head})
        shapes = jax.eval_shape(
            lambda m=model: m.apply(m.init(RNGS, X), X, train=True, rngs=RNGS, mutable=["batch_stats"])
        )
        assert shapes[0]["aux"].shape[0] == 4
        assert shapes[0]["aux"].shape[-1] == 5


def test_variables_match_jnp_dtype_policy() -> None:
    head = Head("conv_init", LinearProbe(num_classes=5, dtype=jnp.bfloat16))
    model = auxjax.attach(StrangersNet(), {"aux": head})
    variables = jax.eval_shape(lambda: model.init(RNGS, X))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables["params"]["heads"])} == {jnp.dtype("float32")}
