"""What every method for main and auxiliary losses keeps for easy and hard gradients, and the toy of Du et al."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax import weighting as weightings
from auxjax.weighting import asymmetric, balanced, decomposition, directions, priority
from auxjax.weighting.protocol import CONSTANT, PROMISES, Signals, Weighting, combine, gramian_of
from tests.weighting.auxiliary_gradients import Array, Run, as_tree, as_vector, families, run, signals

METHODS = {
    name: method
    for module in (asymmetric, balanced, decomposition, directions, priority)
    for name, method in module.METHODS.items()
}


ORDER = [0, 3, 1, 2]


@functools.cache
def over_families(name: str) -> tuple[Array, Run]:
    """Three steps of gradients [3, N, 4, d] of all families, then the same with the heads in another order."""
    each = [np.concatenate(list(families(4, seed).values())) for seed in range(3)]
    gradients = np.stack(each).astype(np.float32)
    gradients = np.concatenate([gradients, gradients[:, :, ORDER]], axis=1)
    return gradients.astype(np.float64), run(METHODS[name].make(), gradients)


@pytest.mark.parametrize("name", METHODS)
def test_every_number_is_finite(name: str) -> None:
    _, result = over_families(name)
    for leaf in jax.tree.leaves((result.weights, result.directions, result.state)):
        assert np.all(np.isfinite(leaf))


def test_main_alone_is_plain_descent() -> None:
    gradients = np.concatenate(list(families(1).values())).astype(np.float32)

    def every_method(g: jax.Array) -> dict[str, Any]:
        made = {name: method.make() for name, method in METHODS.items()}
        return {
            name: weighting.update(signals(g), weighting.init(("main",), as_tree(g[0])))[0]
            for name, weighting in made.items()
        }

    for name, update in jax.jit(jax.vmap(every_method))(gradients).items():
        np.testing.assert_array_equal(update.weights, np.ones((len(gradients), 1)), err_msg=name)
        # MTAdam has Adam's direction: see its own tests.
        if update.direction is not None and name != "mt_adam":
            np.testing.assert_array_equal(jax.vmap(as_vector)(update.direction), gradients[:, 0], err_msg=name)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if "main_first" in m.promises])
def test_main_never_rises_to_first_order(name: str) -> None:
    gradients, result = over_families(name)
    main, direction = gradients[:, :, 0], result.directions.astype(np.float64)
    lengths = np.linalg.norm(main, axis=-1) * np.linalg.norm(direction, axis=-1)
    assert np.all(np.sum(main * direction, axis=-1) >= -1e-5 * lengths)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if "main_one" in m.promises])
def test_main_has_weight_one(name: str) -> None:
    np.testing.assert_array_equal(over_families(name)[1].weights[..., 0], 1)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if "heads_symmetric" in m.promises])
def test_the_order_of_the_heads_does_not_matter(name: str) -> None:
    weights, reordered = np.split(over_families(name)[1].weights, 2, axis=1)
    np.testing.assert_allclose(reordered, weights[..., ORDER], rtol=1e-4, atol=1e-4)


def test_promises_are_known() -> None:
    assert all(method.promises <= set(PROMISES) and method.source for method in METHODS.values())


def mean(seen: Signals, state: Any) -> tuple[Any, Any]:
    update, state = CONSTANT.update(seen, state)
    return update._replace(weights=jnp.full((2,), 0.5)), state


OPTIMUM, ELSEWHERE, RATE, STEPS = np.array([1.0, -1.0]), np.array([-6.0, 3.0]), 0.02, 400


def trained(weighting: Weighting, turn: int = STEPS // 2) -> Array:
    """Returns the points of SGD on ||x - a||^2 beside ||x - b||^2, where b = a until step `turn` and is then far off.

    The step's key is folded from the step, for methods that draw.
    """
    start = jnp.asarray([4.0, 3.0])

    def step(carry: Any, index: Any) -> tuple[Any, Any]:
        x, state = carry
        other = jnp.where(index < turn, OPTIMUM, ELSEWHERE)
        gradients = ({"x": 2 * (x - OPTIMUM)}, {"x": 2 * (x - other)})
        key = jax.random.fold_in(jax.random.key(0), index)
        seen = Signals(index, index / STEPS, key, gramian=gramian_of(gradients), gradients=gradients)
        update, state = weighting.update(seen, state)
        weights = jnp.broadcast_to(update.weights, (2,))
        direction = combine(weights, gradients) if update.direction is None else update.direction
        x = x - RATE * direction["x"]
        return (x, state), x

    init = (start, weighting.init(("main", "aux"), {"x": start}))
    return np.asarray(jax.jit(lambda: jax.lax.scan(step, init, jnp.arange(STEPS))[1])())


@functools.cache
def trained_by(name: str) -> Array:
    return trained(METHODS[name].make())


def distance(points: Array) -> Any:
    return np.linalg.norm(points - OPTIMUM, axis=-1)


@pytest.mark.parametrize(
    "name", ["gcs", "gcs_per_tensor", "sign_gate", "pri_pcgrad", "bloop", "ol_aux", "attittud", "mt_adam"]
)
def test_an_auxiliary_loss_that_turns_harmful_does_not_take_main_away(name: str) -> None:
    # Du et al. 2018, section on toy functions; the optima are 8.1 apart, and the compromise is 4.0 away.
    assert distance(trained_by(name))[-1] < 0.2


@pytest.mark.parametrize("weighting", [CONSTANT, CONSTANT._replace(update=mean)], ids=["constant", "mean"])
def test_weights_that_do_not_look_end_at_the_compromise(weighting: Weighting) -> None:
    points = trained(weighting)
    assert distance(points)[STEPS // 2 - 1] < 0.01
    np.testing.assert_allclose(points[-1], (OPTIMUM + ELSEWHERE) / 2, atol=0.01)


@pytest.mark.parametrize("name", ["upgrad", "nash_mtl", "pcgrad"])
def test_symmetric_methods_stop_at_a_compromise_where_it_turns_before_main_arrives(name: str) -> None:
    assert distance(trained(weightings.METHODS[name].make(), turn=20))[-1] > 0.5
    assert distance(trained(METHODS["gcs"].make(), turn=20))[-1] < 0.05


def test_a_helpful_auxiliary_loss_speeds_main_up() -> None:
    plain = distance(trained(CONSTANT._replace(update=mean)))  # half of each: as fast as main alone
    for name in ("gcs", "pri_pcgrad", "ol_aux", "sign_gate"):
        assert distance(trained_by(name))[40] < 0.5 * plain[40], name
