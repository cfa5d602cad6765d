"""Slices of the loss: directions of the filters' norms, the network in the middle, two networks at the ends."""

from __future__ import annotations

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.diagnostics.inference import coefficients, mean_losses
from auxjax.diagnostics.landscape import between, direction, landscape, records
from auxjax.errors import AuxjaxError
from auxjax.state import Batch, TrainState
from tests.diagnostics import tiny


@functools.cache
def net(seed: int = 0) -> tuple[TrainState, Batch]:
    state = tiny.state(seed, norm="batch")
    return state.replace(statistics=jax.tree.map(lambda x: x + 0.1 * (seed + 1), state.statistics)), tiny.batch()


@jax.jit
def moved(state: TrainState, key: jax.Array, place: jax.Array) -> TrainState:
    """The state moved along as many of the key's directions as `place` has numbers."""
    model = state.params["model"]
    for x, own in zip(place, jax.random.split(key, len(place)), strict=True):
        model = jax.tree.map(lambda a, d, x=x: a + x * d, model, direction(own, state.params["model"]))
    return state.replace(params={**state.params, "model": model})


@jax.jit
def losses(state: TrainState, batch: Batch) -> jax.Array:
    return mean_losses(state, state.params, batch)


def _layer(i: int) -> dict[str, jax.Array]:
    return {"kernel": i * jax.random.normal(jax.random.key(i), (3, 3, 2 * i, 4)), "bias": jnp.ones(4)}


def test_directions_have_the_norms_of_the_filters_and_leave_vectors_alone() -> None:
    params = {f"conv_{i}": _layer(i) for i in (1, 2)} | {"norm": {"scale": jnp.ones(4)}}
    params["zero"] = jax.tree.map(jnp.zeros_like, params["conv_1"])
    found = jax.jit(direction)(jax.random.key(0), params)
    for layer in ("conv_1", "conv_2"):
        given, step = params[layer]["kernel"], found[layer]["kernel"]
        filters = [np.linalg.norm(np.asarray(x).reshape(-1, x.shape[-1]), axis=0) for x in (given, step)]
        np.testing.assert_allclose(filters[1], filters[0], rtol=1e-5)
        assert abs(np.vdot(given, step)) < 0.5 * np.vdot(given, given)
        assert not np.any(found[layer]["bias"])
    assert not np.any(found["norm"]["scale"])
    assert not np.allclose(*(found[layer]["kernel"][:, :, :2] for layer in ("conv_1", "conv_2")))
    assert not np.any(found["zero"]["kernel"])


def test_a_slice_is_the_loss_along_its_direction_and_the_networks_own_at_zero() -> None:
    state, batch = net()
    main, total = records(state, batch, points=5, reach=0.5, seed=3)
    assert (main["of"], total["of"], main["y"]) == ("main", "total", None)
    np.testing.assert_allclose(main["x"], [-0.5, -0.25, 0, 0.25, 0.5])
    own = np.asarray(losses(state, batch))
    np.testing.assert_allclose(main["loss"][2], own[0], rtol=1e-5)
    np.testing.assert_allclose(total["loss"][2], own @ np.asarray(coefficients(state, batch, "total")), rtol=1e-5)
    for i in (0, 3):
        at = losses(moved(state, jax.random.key(3), jnp.array(main["x"][i : i + 1])), batch)
        np.testing.assert_allclose(main["loss"][i], at[0], rtol=1e-4)
    assert np.ptp(main["loss"]) > 0.01
    assert landscape(state, batch, points=5, reach=0.5, seed=3) == main


def test_a_plane_has_two_directions_and_its_rows_go_along_y() -> None:
    state, batch = net()
    plane = landscape(state, batch, loss="aux1", axes=2, points=3, reach=0.4)
    assert np.shape(plane["loss"]) == (3, 3) and plane["x"] == plane["y"]
    # x is largest in the last column, y smallest in the first row.
    at = losses(moved(state, jax.random.key(0), jnp.array([0.4, -0.4])), batch)
    np.testing.assert_allclose(plane["loss"][0][2], at[1], rtol=1e-4)


def test_a_line_has_both_networks_at_its_ends() -> None:
    (state, batch), (other, _) = net(), net(1)
    line = between(state, other, batch, points=3, loss="aux2")
    ends = [float(losses(s, batch)[2]) for s in (state, other)]
    np.testing.assert_allclose([line["loss"][0], line["loss"][2]], ends, rtol=1e-5)
    assert line["x"] == [0, 0.5, 1]
    same = between(state, state, batch, points=3, loss="aux2")
    np.testing.assert_allclose(same["loss"], ends[0], rtol=1e-5)
    np.testing.assert_allclose(between(state, other, batch, points=3, overshoot=0.5)["x"], [-0.5, 0.5, 1.5])


def test_a_loss_that_is_not_finite_is_null() -> None:
    state, batch = net()
    broken = state.replace(params=jax.tree.map(lambda x: x * jnp.inf, state.params))
    record = landscape(broken, batch, points=5, reach=0.5, seed=3)
    assert json.dumps(record["loss"]) == "[null, null, null, null, null]"


@pytest.mark.parametrize(
    ("keywords", "words"),
    [({"loss": "aux3"}, "aux2"), ({"axes": 3}, "one or two"), ({"points": 1}, "two points"), ({"pieces": 3}, "pieces")],
)
def test_what_cannot_be_is_an_error(keywords: dict[str, Any], words: str) -> None:
    with pytest.raises(AuxjaxError, match=words):
        landscape(*net(), **keywords)


def test_a_line_needs_one_network() -> None:
    (state, batch), fewer = net(), tiny.state(heads={})
    with pytest.raises(AuxjaxError, match="one network"):
        between(state, fewer, batch)
