"""Gradients by head against `jax.jacrev`, and one update against the single weighted backward pass."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import auxjax
from auxjax import ops, parallel
from auxjax.errors import AuxjaxError
from auxjax.gradients import gradients
from auxjax.head_gradients import head_gradients, losses_of, resting_gradients, trunk_of
from auxjax.heads import Head, LinearProbe
from auxjax.held_out import held_out, hold_out
from auxjax.models.plainnet import PlainNet
from auxjax.pullbacks import pullbacks, reached
from auxjax.step import Program, TrainState, create_state, train_step
from auxjax.trunk import named, unnamed
from auxjax.weighting import Signals, Update, Weighting
from auxjax.weighting.compose import every
from auxjax.weighting.protocol import CONSTANT, no_state
from tests import small

LOOKS = CONSTANT._replace(needs=frozenset({"gramian"}))
STEP = jax.jit(train_step)


def heads() -> dict[str, Head]:
    """Taps at two depths, the second above the first, each head with statistics of its own."""
    return small.heads()


def state_of(program: Program, seed: int = 0) -> TrainState:
    variables = jax.jit(program.attached.init)(jax.random.key(seed), jnp.zeros((1, 8, 8, 3)))
    return create_state(program, variables, jax.random.key(seed + 1), trunk_of(program, variables, small.batch()))


def program_of(**fields: Any) -> Program:
    return small.program(heads(), dropout_rate=0.2, optimizer=optax.sgd(0.1))._replace(**fields)


def close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    def check(a: Any, e: Any) -> None:
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * max(1.0, float(np.abs(e).max())))

    jax.tree.map(check, actual, expected)


def test_pullbacks_are_the_rows_of_the_jacobian_and_reach_what_they_should() -> None:
    program = program_of()
    state, batch = state_of(program), small.batch()

    @jax.jit
    def run(params: Any) -> Any:
        passes = pullbacks(lambda p: losses_of(state, p, batch, state.key, None), params)
        rows = [passes.pull(k, jnp.float32(1)) for k in range(3)]
        return rows, jax.tree.map(jnp.asarray, reached(passes))

    rows, reach = run(state.params)
    jacobian = jax.jacrev(lambda p: jnp.stack(losses_of(state, p, batch, state.key, None)[0]))(state.params)
    close(jax.tree.map(lambda *g: jnp.stack(g), *rows), jacobian)
    for k in range(3):
        exact = jax.tree.map(lambda j, k=k: bool(jnp.any(j[k] != 0)), jacobian)
        flags = jax.tree.map(bool, reach[k])
        # A bias before BatchNorm has a gradient that vanishes by value and not by structure.
        assert all(r or not e for r, e in zip(jax.tree.leaves(flags), jax.tree.leaves(exact), strict=True))
        layers = {name.split("/")[0] for name, flag in named(flags["model"]).items() if flag}
        assert (
            layers
            == [{"conv_1", "bn_1", "conv_2", "bn_2", "logits"}, {"conv_1", "bn_1"}, {"conv_1", "bn_1", "conv_2"}][k]
        )


@pytest.mark.parametrize(
    ("trunk", "pulled"),
    [
        ("shared", "sequential"), ("shared", "vmapped"), ("shallowest", "sequential"), ("taps", "sequential"),
        ("conv_1", "vmapped"),
    ],
)  # fmt: skip
def test_constant_weights_by_k_pullbacks_are_the_single_weighted_backward(trunk: str, pulled: str) -> None:
    program = program_of(weighting=LOOKS, trunk=trunk, pullbacks=pulled)
    state, batch = state_of(program), small.batch()
    expected = jax.jit(gradients)(state, batch, state.key)
    actual = jax.jit(head_gradients)(state, batch, state.key)
    close(actual.grads, expected.grads)
    close((actual.losses, actual.statistics, actual.hits), (expected.losses, expected.statistics, expected.hits))
    close(actual.weights, [1.0, 0.3, 0.3])


def spy(seen: dict[str, Any], needs: set[str], weights: Any, direction: Any = None) -> Weighting:
    def update(signals: Signals, state: Any) -> tuple[Update, Any]:
        seen["signals"] = signals
        return Update(jnp.asarray(weights), None if direction is None else direction(signals)), state

    return Weighting(no_state, update, frozenset(needs))


def seen_by(program: Program, needs: set[str], batch: Any) -> tuple[Any, Any]:
    """Returns the signals of one step, and its gradients, both as arrays."""
    seen: dict[str, Any] = {}
    program = program._replace(weighting=spy(seen, needs, [1.0, 0.0, 0.0]))
    state = state_of(program)

    @jax.jit
    def run(state: TrainState) -> Any:
        grads = head_gradients(state, batch, state.key).grads
        return seen["signals"]._replace(held_out=None), grads

    return run(state)


def jacobian_of(program: Program, batch: Any) -> Any:
    state = state_of(program)
    rows = jax.jacrev(lambda p: jnp.stack(losses_of(state, p, batch, state.key, None)[0]))(state.params)
    return rows, np.asarray(program.weights(jnp.float32(0)))


@pytest.mark.parametrize("pulled", ["sequential", pytest.param("vmapped", marks=pytest.mark.slow_study)])
@pytest.mark.parametrize(
    ("trunk", "layers"),
    [("shared", ("conv_1", "bn_1", "conv_2")), ("shallowest", ("conv_1", "bn_1")), ("conv_1", ("conv_1",))],
)
def test_the_signals_are_the_trunks_scaled_gradients(trunk: str, layers: tuple[str, ...], pulled: str) -> None:
    program, batch = program_of(trunk=trunk, pullbacks=pulled), small.batch()
    signals, grads = seen_by(program, {"gramian", "gradients"}, batch)
    rows, scales = jacobian_of(program, batch)
    arrays = {n: a for n, a in named(rows["model"]).items() if n.split("/")[0] in layers}
    assert set(signals.gradients[0]) == set(arrays)
    for k in range(3):
        close(signals.gradients[k], {n: scales[k] * a[k] for n, a in arrays.items()})
    flat = np.concatenate([np.asarray(a).reshape(3, -1) * scales[:, None] for a in arrays.values()], 1)
    close(signals.gramian, flat @ flat.T)
    # Heads of weight 0 still learn, by their own loss; main's layers get main's gradient.
    close(grads["heads"]["aux1"], jax.tree.map(lambda a: 0.3 * a[1], rows["heads"]["aux1"]))
    close(grads["model"], jax.tree.map(lambda a: a[0], rows["model"]))


def test_a_direction_replaces_the_trunks_gradient_and_nothing_else() -> None:
    program = program_of(
        weighting=spy({}, {"gradients"}, [1.0, 2.0, 3.0], lambda s: jax.tree.map(jnp.ones_like, s.gradients[0]))
    )
    program = program._replace(trunk="shallowest")
    state, batch = state_of(program), small.batch()
    grads = jax.jit(head_gradients)(state, batch, state.key).grads["model"]
    rows, _ = jacobian_of(program, batch)
    close(grads["conv_1"], jax.tree.map(jnp.ones_like, grads["conv_1"]))
    close(grads["conv_2"], jax.tree.map(lambda a: a[0] + 3.0 * 0.3 * a[2], rows["model"]["conv_2"]))
    close(grads["logits"], jax.tree.map(lambda a: a[0], rows["model"]["logits"]))


class Rematted(nn.Module):
    layer: Any = nn.remat(nn.Dense)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for i in range(3):
            x = nn.tanh(self.layer(8, name=f"layer_{i}")(x))
        return nn.Dense(small.CLASSES, name="logits")(x)


class Scanned(nn.Module):
    """A layer, three of one kind in a loop, and one more."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        again = lambda cell, x, _: (nn.tanh(cell(x)), None)  # noqa: E731
        loop = nn.scan(again, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x = nn.tanh(nn.Dense(8, name="layer_0")(x.reshape(x.shape[0], -1)))
        x, _ = loop(nn.Dense(8, name="layer_1"), x, None)
        return nn.Dense(small.CLASSES, name="logits")(nn.Dense(8, name="layer_2")(x))


@pytest.mark.parametrize(
    ("model", "remat", "trunk"),
    [
        (Rematted, "none", "taps"), (Rematted, "full", "layer_2"), (Rematted, "dots", "shallowest"),
        (Scanned, "none", "shallowest"), *(pytest.param(*case, marks=pytest.mark.slow_study) for case in (
            (Rematted, "none", "shared"), (Rematted, "none", "shallowest"), (Rematted, "full", "taps"),
            (Scanned, "none", "shared"), (Scanned, "full", "layer_2"),
        )),
    ],
)  # fmt: skip
def test_through_remat_and_scan(model: Any, remat: str, trunk: str) -> None:
    """Weights that differ act as they should on what lies below, between and above the taps."""
    module = nn.Dense(small.CLASSES)
    attached = auxjax.attach(model(), {"aux1": Head("layer_0", module), "aux2": Head("layer_2", module)})
    program = program_of(attached=attached, weights=lambda p: jnp.array([1.0, 0.3, 0.3]), trunk=trunk, remat=remat)
    program, batch = program._replace(weighting=spy({}, {"gramian"}, [0.5, 2.0, 3.0])), small.batch(4)
    state = state_of(program)
    grads = jax.jit(head_gradients)(state, batch, state.key).grads
    rows, scales = jacobian_of(program, batch)
    between = (0.5, 0.0, 3.0)
    for layer, by in {"layer_0": (0.5, 2.0, 3.0), "layer_1": between, "layer_2": between, "logits": (1, 0, 0)}.items():
        expected = jax.tree.map(lambda a, by=by: jnp.tensordot(jnp.array(by) * scales, a, 1), rows["model"].get(layer))
        close(grads["model"].get(layer), expected)
    close(grads["heads"]["aux1"], jax.tree.map(lambda a: 0.3 * a[1], rows["heads"]["aux1"]))


def test_at_a_tap_inside_remat_the_gramian_is_that_without() -> None:
    gramians = []
    for layer in (nn.remat(nn.Dense), nn.Dense):
        heads = {f"aux{i}": Head(f"layer_{i}", nn.Dense(small.CLASSES)) for i in (0, 2)}
        attached = auxjax.attach(Rematted(layer), heads)
        program = program_of(attached=attached, names=(*heads,), weights=lambda p: jnp.ones(3), trunk="taps")
        gramians.append(seen_by(program, {"gramian"}, small.batch(4))[0].gramian)
    close(gramians[0], gramians[1])


def test_at_the_tap_the_gramian_is_that_of_the_features() -> None:
    program, batch = program_of(trunk="taps"), small.batch()
    signals, _ = seen_by(program, {"gramian"}, batch)
    state = state_of(program)
    value = {}

    def losses(delta: Any) -> Any:
        def add(function: Any, args: Any, kwargs: Any, context: Any) -> Any:
            y = function(*args, **kwargs)
            value["shape"] = y.shape
            return y + delta if context.module.path == ("bn_1",) else y

        with nn.intercept_methods(add):
            return jnp.stack(losses_of(state, state.params, batch, state.key, None)[0])

    shape = program.attached.tap_shapes(auxjax.strip(state.variables), batch["image"])["aux1"].shape
    rows = np.asarray(jax.jacrev(losses)(jnp.zeros(shape))).reshape(3, -1) * np.array([[1.0], [0.3], [0.3]])
    close(signals.gramian, rows @ rows.T)


def test_what_a_trunk_cannot_be() -> None:
    with pytest.raises(AuxjaxError, match=r"unknown trunk 'conv_11'; did you mean 'conv_1'"):
        state_of(program_of(weighting=LOOKS, trunk="conv_11"))
    with pytest.raises(AuxjaxError, match=r"trunk 'logits': no head reaches this submodule; they reach bn_1, conv_1"):
        state_of(program_of(weighting=LOOKS, trunk="logits"))
    program = program_of(weighting=CONSTANT._replace(needs=frozenset({"gradients"})), trunk="taps")
    with pytest.raises(AuxjaxError, match="trunk='taps' has no gradients of parameters"):
        STEP(state_of(program), small.batch())


@pytest.mark.parametrize(("trunk", "more"), [("shared", 3), ("shallowest", 2), ("taps", 0)])
def test_each_layer_costs_what_is_wanted_of_it(trunk: str, more: int) -> None:
    """The compiled step has as many products as forward, main's backward, and each head's below its tap need.

    Layers a, b, c of a dense network, heads on the first two. Main and aux2 pass through b to a, a product more than
    their sum would take. Looked at one by one, b has one more gradient and a two; a takes no gradient of the input.
    """
    attached = auxjax.attach(
        PlainNet(num_classes=small.CLASSES, depth=3, width=8, activation="tanh", kernel_init="he"),
        {f"aux{i}": Head(f"layer_{i}", nn.Dense(small.CLASSES)) for i in (1, 2)},
    )
    batch = {"image": jnp.ones((4, 6)), "label": jnp.arange(4)}

    def dots(weighting: Weighting) -> int:
        program = program_of(
            attached=attached, weights=lambda p: jnp.ones(3), weighting=weighting, trunk=trunk, names=("aux1", "aux2")
        )
        variables = attached.init(jax.random.key(0), batch["image"])
        state = create_state(program, variables, jax.random.key(1), trunk_of(program, variables, batch))
        run = jax.jit(head_gradients if weighting.needs else gradients)
        return str(run.lower(state, batch, state.key).compile().as_text()).count(" dot(")

    assert dots(LOOKS) - dots(CONSTANT) == 1 + more


@pytest.mark.slow_study
def test_held_out_gradient_and_hessian_are_those_of_the_losses() -> None:
    program = program_of(weighting=LOOKS, learning_rate=lambda step: 0.5)
    state, batch = state_of(program), small.batch(32)
    kept, held = hold_out(batch)
    assert {len(x) for x in kept.values()} == {24} and {len(x) for x in held.values()} == {8}
    np.testing.assert_array_equal(held["label"], batch["label"][3::4])
    arrays = named(state.params["model"])
    names = ("conv_1/kernel", "conv_2/kernel")
    trunk = {name: arrays[name] for name in names}
    direction = {name: jax.random.normal(jax.random.key(i), a.shape) for i, (name, a) in enumerate(trunk.items())}

    def losses(t: Any, batch: Any) -> Any:
        params = {**state.params, "model": unnamed(state.params["model"], {**arrays, **t})}
        return jnp.stack(losses_of(state, params, batch, state.key, None)[0])

    @jax.jit
    def run(state: TrainState) -> Any:
        look = held_out(state, names, kept, held, state.key, None)
        return look.gradient(None), look.gradient(direction), look.hessian(jnp.array([1.0, 2.0, 0.0]), direction)

    here, ahead, product = run(state)
    moved = jax.tree.map(lambda p, d: p - 0.5 * d, trunk, direction)
    for (value, gradient), at in ((here, trunk), (ahead, moved)):
        close((value, gradient), jax.value_and_grad(lambda t: losses(t, held)[0])(at))
    total = lambda t: jnp.dot(jnp.array([1.0, 0.6, 0.0]), losses(t, kept))  # noqa: E731
    with ops.library_form():
        hessian = jax.jit(jax.hessian(total))(trunk)
    expected = {a: sum(jnp.tensordot(hessian[a][b], direction[b], direction[b].ndim) for b in names) for a in names}
    close(product, expected, 1e-4)


@pytest.mark.multidevice
@pytest.mark.parametrize(
    ("mode", "trunk"),
    [
        ("pmap", "taps"), *(pytest.param(*pair, marks=pytest.mark.slow_study) for pair in
                            (("jit", "shared"), ("jit", "taps"), ("pmap", "shared"))),
    ],
)  # fmt: skip
def test_eight_devices_give_the_gradients_and_the_gramian_of_one(mode: str, trunk: str) -> None:
    seen: dict[int, Any] = {}
    method = Weighting(
        lambda names, trunk: jnp.zeros((3, 3)), lambda s, _: (Update(jnp.ones(3)), s.gramian), frozenset({"gramian"})
    )
    program = program_of(weighting=method, trunk=trunk, attached=small.program(heads()).attached)
    for devices in (1, 8):
        where = parallel.layout(mode, devices)
        step = parallel.compile_train(
            where, lambda state, _, batch, axis_name=None: train_step(state, batch, axis_name=axis_name)
        )
        state, _ = step(
            parallel.place_state(where, state_of(program)), None, parallel.place_batch(where, small.batch(32))
        )
        seen[devices] = parallel.fetch_state(where, state)
    close((seen[8].params, seen[8].weighting_state), (seen[1].params, seen[1].weighting_state))


@pytest.mark.parametrize(
    ("mode", "main"),
    [
        ("jit", 0.0), *(pytest.param(*pair, marks=pytest.mark.slow_study) for pair in
                        (("jit", 0.3), ("pmap", 0.0), ("pmap", 0.3))),
    ],
)  # fmt: skip
def test_a_step_that_is_not_due_holds_the_weights_and_is_the_same_update(mode: str, main: float) -> None:
    """Under weights that do not depend on the gradients, looking every third step must change nothing."""
    fixed = Weighting(no_state, lambda s, state: (Update(jnp.array([main, 0.5, 0.0])), state), frozenset({"gramian"}))
    ends = []
    for weighting in (fixed, every(fixed, 3)):
        program = program_of(weighting=weighting)
        where = parallel.layout(mode, 1)
        step = parallel.compile_train(where, _plain_step)
        state = parallel.place_state(where, state_of(program))
        for _ in range(3):
            state, metrics = step(state, None, parallel.place_batch(where, small.batch(32)))
        ends.append((parallel.fetch_state(where, state).params, parallel.fetch_metrics(where, metrics)))
    close(ends[1], ends[0])
    assert float(ends[1][1]["weight/aux1"]) == pytest.approx(0.15)


def _plain_step(state: TrainState, _: Any, batch: Any, axis_name: str | None = None) -> Any:
    return train_step(state, batch, axis_name=axis_name)


def test_vmapped_pullbacks_keep_no_k_gradients() -> None:
    """By XLA's own account of what a compiled step needs beside its arguments, over the trunk's size."""

    def norms(signals: Signals, state: Any) -> tuple[Update, Any]:
        assert signals.gramian is not None
        return Update(1 / jnp.diag(signals.gramian)), state

    looking = Weighting(no_state, norms, frozenset({"gramian"}))
    wide = PlainNet(num_classes=4, depth=4, width=512, activation="relu", kernel_init="he")
    heads = {f"aux{i}": Head("layer_4", LinearProbe(4), weight=0.3) for i in range(4)}
    batch = {"image": jnp.ones((2, 512)), "label": jnp.zeros(2, jnp.int32)}
    used = {}
    for how in ("sequential", "vmapped"):
        program = small.program(heads)._replace(attached=auxjax.attach(wide, heads), weighting=looking, pullbacks=how)
        variables = program.attached.init(jax.random.key(0), batch["image"])
        state = create_state(program, variables, jax.random.key(1), trunk_of(program, variables, batch))
        memory = jax.jit(train_step).lower(state, batch).compile().memory_analysis()
        assert memory is not None
        used[how] = memory.temp_size_in_bytes / sum(x.nbytes for x in jax.tree.leaves(state.params["model"]))
    assert used["vmapped"] < 1.5 < 2.5 < used["sequential"]


def test_a_step_that_is_not_due_has_one_backward_pass() -> None:
    program = program_of(weighting=every(LOOKS, 4))
    state, batch = state_of(program), small.batch()
    resting = jax.jit(resting_gradients).lower(state, batch, state.key).as_text().count("stablehlo.convolution")
    plain = jax.jit(gradients).lower(state, batch, state.key).as_text().count("stablehlo.convolution")
    looking = jax.jit(head_gradients).lower(state, batch, state.key).as_text().count("stablehlo.convolution")
    assert resting == plain < looking
