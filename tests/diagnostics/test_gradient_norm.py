"""Gradient norms by layer and loss against jax.grad, and the profile of a network that starves."""

from __future__ import annotations

import json
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import auxjax
from auxjax import weighting
from auxjax.diagnostics import gradient_norm
from auxjax.diagnostics.by_loss import loss_gradients, names_of
from auxjax.gradients import accumulated_gradients
from auxjax.head_gradients import trunk_of
from auxjax.state import Main, Program, create_state
from auxjax.step import backward, step_key
from tests import small
from tests.diagnostics.gradients import examples, flat, gradient, plain_state

MEASURE = jax.jit(gradient_norm.gradient_norm)


def test_rows_are_the_norms_of_each_losss_own_gradient_and_zero_above_its_tap() -> None:
    state, batch = plain_state(3, {"layer_1": 0.3, "layer_2": 0.7}), examples(12)
    found = MEASURE(state, batch)
    names = names_of(state, batch)
    assert names.layers == ("layer_1", "layer_2", "layer_3", "logits")
    assert names.losses == ("main", "aux1", "aux2")
    grads = [gradient(state, batch, name) for name in names.losses]
    expected = np.array([[np.linalg.norm(flat(g[layer])) for layer in names.layers] for g in grads])
    np.testing.assert_allclose(found["unweighted"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["weights"], [1, 0.3, 0.7], rtol=1e-6)
    np.testing.assert_allclose(found["norm"][:3], expected * np.array([[1], [0.3], [0.7]]), rtol=1e-5)
    total = [sum(w * flat(g[n]) for w, g in zip((1, 0.3, 0.7), grads, strict=True)) for n in names.layers]
    np.testing.assert_allclose(found["norm"][3], [np.linalg.norm(t) for t in total], rtol=1e-5)
    assert (np.asarray(found["norm"])[1, 1:] == 0).all()
    assert (np.asarray(found["norm"])[2, 2:] == 0).all()
    assert (np.asarray(found["norm"])[1:3, 0] > 0).all()


def test_batch_norm_dropout_and_ragged_masks_are_those_of_the_step() -> None:
    state, batch = small.state(small.program(small.heads(), dropout_rate=0.5)).replace(step=jnp.int32(3)), small.batch()
    expected = jax.jit(lambda s, b: backward(s.program)(s, b, step_key(s), None).grads["model"])(state, batch)
    layers = names_of(state, batch).layers
    assert layers == ("conv_1", "bn_1", "conv_2", "bn_2", "logits")
    norm = MEASURE(state, batch)["norm"]
    np.testing.assert_allclose(norm[-1], [np.linalg.norm(flat(expected[n])) for n in layers], rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(list(gradient_norm.by_layer(state, batch).values()), norm[-1], rtol=2e-5, atol=1e-7)
    other = MEASURE(state.replace(step=jnp.int32(4)), batch)["norm"]
    assert not np.allclose(other[0], norm[0], rtol=1e-3)


@pytest.mark.parametrize("name", ["pcgrad", "dwa"])
def test_the_total_is_the_gradient_that_the_step_takes(name: str) -> None:
    chosen = weighting.choose({"name": name})
    made = plain_state(3, {"layer_1": 0.3, "layer_2": 2.0}, chosen.weighting)
    batch = examples(12)
    variables = {"params": made.params, **made.statistics}
    state = create_state(made.program, variables, made.key, trunk_of(made.program, variables, batch))
    expected = jax.jit(lambda s, b: backward(s.program)(s, b, step_key(s), None))(state, batch)
    found = jax.jit(lambda s, b: loss_gradients(s, b)._replace(reach=()))(state, batch)
    np.testing.assert_allclose(flat(found.total), flat(expected.grads["model"]), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-5)
    np.testing.assert_allclose(flat(found.rows[1]), flat(gradient(state, batch, "aux1")), rtol=1e-5, atol=1e-7)


def test_microbatches_are_those_of_the_step() -> None:
    program = small.program(small.heads(), dropout_rate=0.5, accumulate=4)
    state, batch = small.state(program), small.batch()
    expected = jax.jit(lambda s, b: accumulated_gradients(s, b, step_key(s), None))(state, batch)
    found = jax.jit(lambda s, b: loss_gradients(s, b)._replace(reach=()))(state, batch)
    np.testing.assert_allclose(flat(found.total), flat(expected.grads["model"]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)


def test_heads_undo_the_vanishing_profile_of_eight_sigmoid_layers() -> None:
    """Without heads the first layer gets less than 1 % of the last hidden one's gradient; with, about as much."""
    image = jax.random.normal(jax.random.key(0), (64, 64))
    state = plain_state(8, {f"layer_{i}": 0.3 for i in range(1, 8)}, width=128, features=64)
    norm = np.asarray(MEASURE(state, {"image": image, "label": image[:, :4].argmax(-1)})["norm"])
    main, total = norm[0, :8], norm[-1, :8]
    assert main[0] < 1e-2 * main[7]
    assert (main[:-1] < main[1:]).all()
    assert 0.1 < total[0] / total[7] < 10


class Backwards(nn.Module):
    """Called in the order z, y, x, against that of its names."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> Any:
        scale = self.param("scale", nn.initializers.ones, ())
        for name in ("z", "y", "x_2", "x_10"):
            x = nn.Dense(3, name=name)(x)
        return scale * x


def test_layers_stand_in_the_order_of_execution_and_own_parameters_last() -> None:
    program = Program(
        auxjax.attach(Backwards(), {}), Main(), (), weighting.own_weights({"name": "constant"}, {}), optax.sgd(0.1), 1
    )
    state = create_state(program, program.attached.init(jax.random.key(0), jnp.zeros((1, 3))), jax.random.key(0))
    assert names_of(state, {"image": jnp.zeros((4, 3))}).layers == ("z", "y", "x_2", "x_10", "scale")


def test_a_record_is_json_without_nan() -> None:
    names = names_of(plain_state(1, {}), examples(2))
    made = gradient_norm.record(names, {"norm": np.array([[1.0, np.nan], [np.inf, 1 / 3]]), "weights": np.ones(1)})
    assert json.loads(json.dumps(made, allow_nan=False)) == {
        "diagnostic": "gradient_norm", "layers": ["layer_1", "logits"], "losses": ["main", "total"],
        "norm": [[1.0, None], [None, 0.3333333]], "weights": [1.0],
    }  # fmt: skip
