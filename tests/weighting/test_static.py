"""Schedules against their closed forms in NumPy, and what a weighting makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.weighting import SCHEDULES, choose, dropped, own_weights, schedule

CLOSED_FORMS: dict[str, tuple[dict[str, float], Callable[[float], float]]] = {
    "constant": ({"value": 0.7}, lambda p: 0.7),
    "linear_decay": ({"start": 0.5, "floor": 0.1}, lambda p: max(0.5 * (1 - p), 0.1)),
    "linear_to_zero": ({"start": 2.0, "end_percent": 50}, lambda p: 2 * max(0, 1 - p / 0.5)),
    "cosine": ({"start": 0.8, "floor": 0.2}, lambda p: 0.2 + 0.6 * (1 + math.cos(math.pi * p)) / 2),
    "step": ({"start": 3.0, "gamma": 0.1, "every_percent": 30.0}, lambda p: 3 * 0.1 ** math.floor(p / 0.3 + 1e-6)),
    "exponential": ({"start": 0.4, "rate": 3.0}, lambda p: 0.4 * math.exp(-3 * p)),
    "polynomial": ({"start": 0.6, "power": 3.0}, lambda p: 0.6 * (1 - p) ** 3),
    "ramp_up": ({"start": 0.01, "end": 0.9}, lambda p: 0.01 + 0.89 * p),
    "cutoff": ({"start": 0.3, "end_percent": 40.0}, lambda p: 0.3 if p < 0.4 else 0.0),
}


def weights(config: dict[str, Any], heads: dict[str, Any], progress: Any, main: float = 1.0) -> np.ndarray:
    return np.asarray(own_weights(config, heads, main)(progress))


def test_every_schedule_has_a_closed_form_here() -> None:
    assert set(CLOSED_FORMS) == set(SCHEDULES)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_a_schedule_is_its_closed_form_also_inside_jit(name: str) -> None:
    fields, form = CLOSED_FORMS[name]
    made = schedule({"name": name, **fields})
    for p in (0.0, 0.1, 0.3, 0.4, 0.6, 0.9, 1.0):
        np.testing.assert_allclose(jax.jit(made)(jnp.float32(p)), form(p), rtol=1e-5, atol=1e-7, err_msg=f"p={p}")
        np.testing.assert_allclose(made(p), form(p), rtol=1e-5, atol=1e-7, err_msg=f"p={p}")
    np.testing.assert_allclose(made(0), form(0), rtol=1e-6)


def test_linear_decay_stops_at_its_floor() -> None:
    made = schedule({"name": "linear_decay", "start": 0.5, "floor": 0.1})
    for p, w in ((0.0, 0.5), (0.2, 0.4), (0.6, 0.2), (0.8, 0.1), (0.9, 0.1), (1.0, 0.1)):
        np.testing.assert_allclose(made(p), w, rtol=1e-6)


def test_the_common_factor_multiplies_every_head_and_not_main() -> None:
    heads = {"a": 0.3, "b": {"name": "ramp_up", "start": 0.0, "end": 1.0}}
    got = weights({"name": "linear_decay"}, heads, 0.25, main=2.0)
    np.testing.assert_allclose(got, [2.0, 0.3 * 0.75, 0.25 * 0.75], rtol=1e-6)
    assert got.dtype == np.float32


def test_weights_batch_and_trace() -> None:
    made = own_weights({"name": "cosine"}, {"a": 0.3})
    progress = jnp.linspace(0, 1, 5)
    batched = jax.jit(jax.vmap(made))(progress)
    single = [weights({"name": "cosine"}, {"a": 0.3}, p)[1] for p in progress]
    np.testing.assert_allclose(batched[:, 1], single, rtol=1e-6, atol=1e-8)


def test_depth_decay_is_that_of_nnu_net() -> None:
    # nnU-Net: weights 1 / 2^i for i = 0 (main), 1 (deepest), ..., divided by their sum.
    published = np.array([1 / 2**i for i in range(4)])
    published = published / published.sum()
    got = weights({"name": "depth_decay", "decay": 0.5}, {"shallow": 1.0, "middle": 1.0, "deep": 1.0}, 0.3)
    np.testing.assert_allclose(got, published[[0, 3, 2, 1]], rtol=1e-6)
    halved = weights({"name": "depth_decay"}, {"shallow": 0.5, "deep": 1.0}, 0.3)
    np.testing.assert_allclose(halved, np.array([1, 0.5 * 0.25, 0.5]) / 1.75, rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "weight", "message"),
    [
        ({"name": "linear_deca"}, 0.3, r"unknown weighting 'linear_deca'; did you mean 'linear_decay'"),
        ({}, 0.3, "unknown weighting ''; valid: "),
        ({"name": ["cosine"]}, 0.3, "unknown weighting "),
        ({"name": "cosine", "flor": 0.1}, 0.3, "unknown parameter of weighting 'cosine' 'flor'; did you mean 'floor'"),
        ({"name": "cosine", "floor": "a"}, 0.3, "parameter floor of weighting 'cosine' must be a number, not 'a'"),
        ({"name": "cosine", "floor": True}, 0.3, "must be a number, not True"),
        ({"name": "cosine", "floor": -1}, 0.3, "must be at least 0 and finite, not -1"),
        ({"name": "constant", "value": math.nan}, 0.3, "must be at least 0 and finite, not nan"),
        ({"name": "step", "every_percent": 0}, 0.3, "must be positive and finite, not 0"),
        ({"name": "depth_decay", "deacy": 0.5}, 0.3, "unknown parameter of weighting 'depth_decay' 'deacy'"),
        ({"name": "constant"}, {"name": "cosin"}, "unknown weight of head 'a' 'cosin'; did you mean 'cosine'"),
        ({"name": "constant"}, {"name": "cosine", "strt": 1}, "parameter of weight of head 'a' 'cosine' 'strt'"),
        ({"name": "constant"}, {}, "unknown weight of head 'a' ''"),
    ],
)
def test_what_is_in_no_registry_is_one_line(config: dict[str, Any], weight: Any, message: str) -> None:
    with pytest.raises(AuxjaxError, match=message) as error:
        own_weights(choose(config).schedule, {"a": weight})
    assert "\n" not in str(error.value)


def test_a_head_is_dropped_where_its_weight_is_always_zero() -> None:
    zero = {"name": "constant", "value": 0.0}
    heads = {"a": 0, "b": 0.3, "c": zero, "d": {"name": "cutoff"}, "e": {"name": "constant"}}
    assert dropped({"name": "cosine"}, heads) == {"a", "c"}
    assert dropped({"name": "constant"}, heads) == {"a", "c"}
    assert dropped({"name": "constant", "value": 0.0}, heads) == set(heads)
