"""AuxiLearn's hypergradient against explicit Hessians and exact implicit solves, and its network in training."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from auxjax.errors import AuxjaxError
from auxjax.weighting import implicit
from auxjax.weighting.implicit import Network
from tests.weighting.auxiliary_gradients import SIZE, Array, families
from tests.weighting.rollouts import Quadratics, Rollout, quadratics, roll, train
from tests.weighting.test_bilevel import harmful

START = np.random.default_rng(5).normal(size=SIZE)


def network() -> Network:
    draw = np.random.default_rng(2)
    arrays = draw.uniform(size=(2, 3)), draw.normal(size=2), draw.uniform(size=2)
    return Network(*(jnp.asarray(a) for a in arrays))


def explicit(problem: Quadratics, x: Any) -> tuple[Array, Array, Array]:
    """Returns grad V [d], and of h(L(theta)) itself the Hessian [d, d] and the mixed derivatives [d, n]."""
    flat, unflatten = ravel_pytree(network())

    def combined(x: Any, phi: Any) -> Any:
        return implicit.combined_loss(problem.losses(x)[:-1], unflatten(phi))

    def derivatives(x: Any) -> Any:
        cross = jax.jacobian(jax.grad(combined), 1)(x, flat)
        return jax.grad(problem.held_out_loss)(x), jax.hessian(combined)(x, flat), cross

    slope, hessian, cross = map(np.asarray, jax.jit(derivatives)(x))
    return slope, hessian, cross


def slope_at(problem: Quadratics, x: Any, terms: int, phi: Network | None = None) -> Any:
    """Returns the library's dV/dphi as a vector."""
    seen = problem.signals(x)
    assert seen.held_out is not None and seen.gradients is not None and seen.losses is not None
    slope = implicit.implicit_slope(seen.held_out, seen.gradients, seen.losses, phi or network(), terms)
    return ravel_pytree(slope)[0]


def test_the_hypergradient_is_the_same_truncated_series() -> None:
    problem, lengths = quadratics(), (0, 1, 3)
    with jax.enable_x64(True):
        x = jnp.asarray(START)
        slope, hessian, cross = explicit(problem, x)
        all_found = jax.jit(lambda x: [slope_at(problem, x, terms) for terms in lengths])(x)
        for terms, found in zip(lengths, all_found, strict=True):
            powers = [np.linalg.matrix_power(np.eye(SIZE) - problem.rate * hessian, j) for j in range(terms + 1)]
            expected = -(slope @ sum(powers)) @ cross
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_many_terms_are_the_exact_implicit_slope() -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(START)
        well = quadratics()
        well = well._replace(matrices=0.1 * well.matrices + np.eye(SIZE))
        slope, hessian, cross = explicit(well, x)
        eigenvalues = np.linalg.eigvalsh(hessian)
        assert eigenvalues.min() > 0
        problem = well._replace(rate=2 / (eigenvalues.min() + eigenvalues.max()))
        expected = -np.linalg.solve(hessian, slope) @ cross
        found = problem.rate * jax.jit(functools.partial(slope_at, problem, terms=60))(x)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@functools.cache
def learned() -> Rollout:
    return train(implicit.auxi_learn(learning_rate=0.05), quadratics(), 30)


def test_the_weights_are_the_slopes_of_the_network() -> None:
    problem, weights = quadratics(), learned().weights
    assert weights.min() >= 0 and weights[:, 0].min() >= 1 and np.ptp(weights, axis=0).min() > 0.01
    with jax.enable_x64(True):
        x = jnp.asarray(learned().points[-2])
        phi = jax.tree.map(lambda a: jnp.asarray(a[-2]), learned().states.values)

        def combined(x: Any) -> Any:
            return implicit.combined_loss(problem.losses(x)[:-1], phi)

        np.testing.assert_allclose(learned().directions[-1], jax.grad(combined)(x), rtol=1e-9)


def test_the_network_moves_by_sgd_with_momentum_and_stays_monotone() -> None:
    problem, rate = quadratics(), 0.05
    points = np.concatenate([np.zeros((1, SIZE)), learned().points])
    with jax.enable_x64(True):
        slope_of = jax.jit(lambda x, phi: slope_at(problem, x, 3, phi))
        phi = implicit.auxi_learn().init(("main", "a", "b"), None).values
        start, unflatten = ravel_pytree(phi)
        momentum, flat = np.zeros(len(start)), np.asarray(start)
        free = jax.tree.map(jnp.zeros_like, phi)._replace(biases=jnp.ones_like(phi.biases))
        monotone = np.asarray(ravel_pytree(free)[0]) == 0
        for t in range(30):
            slope = np.asarray(slope_of(points[t], unflatten(jnp.asarray(flat))))
            momentum = 0.9 * momentum + slope * min(1, 10 / np.linalg.norm(slope))
            flat = flat - rate * momentum
            flat = np.where(monotone, np.maximum(flat, 0), flat)
            at = jax.tree.map(lambda a, t=t: a[t], learned().states.values)
            np.testing.assert_allclose(np.concatenate([np.ravel(a) for a in at]), flat, rtol=1e-6, atol=1e-9)


def test_heads_are_treated_alike_at_first() -> None:
    state = implicit.auxi_learn().init(("main", "a", "b", "c"), None)
    weights = jax.jit(jax.grad(implicit.combined_loss))(jnp.asarray([40.0, 2.0, 0.1, 50.0]), state.values)
    # Of large losses the network is linear: three hidden units of 1/2 times 1/2.
    np.testing.assert_allclose(weights, [1.75, 0.75, 0.75, 0.75], rtol=1e-6)


def test_a_helpful_head_gets_more_than_a_harmful_one() -> None:
    result = train(implicit.auxi_learn(), harmful(), 100)
    assert np.all(result.weights[50:, 1] > 1) and np.all(result.weights[50:, 2] < 0.1)
    with jax.enable_x64(True):
        held_out = np.asarray(jax.vmap(harmful().held_out_loss)(jnp.asarray(result.points)))
    assert held_out[-1] < 1e-3 * held_out[0]


def test_hard_gradients_in_single_precision() -> None:
    for count in (1, 4):
        hard = np.concatenate(list(families(count).values()))
        result = roll(implicit.auxi_learn(), hard, dtype=np.float32)
        for leaf in jax.tree.leaves((result.weights, result.directions, result.states)):
            assert np.isfinite(leaf).all()
        if count == 1:
            np.testing.assert_array_equal(result.directions, hard[:, 0].astype(np.float32))


def test_a_diverging_series_leaves_the_network_as_it_is() -> None:
    result = train(implicit.auxi_learn(), quadratics()._replace(rate=1e200), 1)
    with jax.enable_x64(True):
        start = implicit.auxi_learn().init(("main", "a", "b"), None).values
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b), result.states.values, start)


def test_bad_parameters_are_errors() -> None:
    for parameters in ({"width": 0}, {"terms": -1}):
        with pytest.raises(AuxjaxError, match="auxi_learn needs"):
            implicit.auxi_learn(**parameters)
