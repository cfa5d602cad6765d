"""Weights learned from main's held-out loss: exact slopes on quadratics, steps by hand, and what is learned of harm."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.weighting import bilevel
from auxjax.weighting.protocol import CONSTANT, HeldOut, Update, Weighting
from auxjax.weighting.quadratic import nash
from tests.weighting.auxiliary_gradients import SIZE, Array, as_tree, as_vector, steps
from tests.weighting.rollouts import Quadratics, Rollout, everything, quadratics, roll_hard, train

MAKES = [bilevel.auto_lambda, bilevel.auxi_nash, bilevel.fork_merge]
START = np.random.default_rng(5).normal(size=SIZE)


def test_the_slope_by_the_weights_is_that_of_the_unrolled_step() -> None:
    problem, weights = quadratics(), np.array([1.0, 0.3, 0.7])

    def both(x: Any, weights: Any) -> tuple[Any, Any]:
        g, seen = jax.jacobian(problem.losses)(x)[:-1], problem.signals(x)
        assert seen.held_out is not None and seen.gradients is not None
        unrolled = jax.grad(lambda w: problem.held_out_loss(x - problem.rate * w @ g))(weights)
        return bilevel.step_slope(seen.held_out, weights, seen.gradients), unrolled

    with jax.enable_x64(True):
        ours, expected = map(np.asarray, jax.jit(both)(START, weights))
    np.testing.assert_allclose(ours, expected, rtol=1e-10)


def test_auto_lambda_is_adam_on_the_unrolled_step() -> None:
    problem, rate, count = quadratics(), 0.02, 30
    result = train(bilevel.auto_lambda(initial=0.2, learning_rate=rate), problem, count)
    with jax.enable_x64(True):
        gradients = jax.jit(jax.jacobian(problem.losses))

        def virtual(w: Any, x: Any, g: Any) -> Any:
            return problem.held_out_loss(x - problem.rate * w @ g)

        slope_of = jax.jit(jax.grad(virtual))
        x, w, first, second = np.zeros(SIZE), np.array([1.0, 0.2, 0.2]), np.zeros(3), np.zeros(3)
        for t in range(1, count + 1):
            g = np.asarray(gradients(x))[:-1]
            slope = np.asarray(slope_of(w, x, g))
            first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
            step = first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
            w = np.concatenate([[1.0], np.maximum(w - rate * step, 0)[1:]])
            x = x - problem.rate * w @ g
            np.testing.assert_allclose(result.weights[t - 1], w, rtol=1e-6, atol=1e-8)
    assert np.ptp(result.weights[:, 1:], axis=0).min() > 0.05


def test_the_slope_by_the_preferences_is_that_of_the_solution() -> None:
    problem, h = quadratics(), 1e-4

    def three(x: Any, p: Any) -> tuple[Any, Any, Any]:
        """Returns the library's slope, that by differences of the solution, and that of the equation itself."""
        seen, flat = problem.signals(x), jax.jacobian(problem.losses)(x)[:-1]
        assert seen.gramian is not None and seen.gradients is not None and seen.held_out is not None
        w = nash(seen.gramian, p)
        slope = bilevel.step_slope(seen.held_out, w, seen.gradients)
        around = p.reshape(1, 3) + h * jnp.concatenate([jnp.eye(3), -jnp.eye(3)])
        solved = jax.vmap(nash, in_axes=(None, 0))(seen.gramian, around)
        up, down = jax.vmap(lambda w: problem.held_out_loss(x - problem.rate * w @ flat))(solved).reshape(2, 3)
        by_w, by_p = jax.jacobian(lambda w, p: seen.gramian @ w - p / w, (0, 1))(w, p)
        ours = bilevel.preference_slope(seen.gramian, p, w, slope)
        return ours, (up - down) / (2 * h), -slope @ jnp.linalg.solve(by_w, by_p)

    with jax.enable_x64(True):
        ours, differences, implicit = map(np.asarray, jax.jit(three)(START, np.array([1.4, 0.9, 0.7])))
    np.testing.assert_allclose(ours, differences, rtol=1e-6)
    np.testing.assert_allclose(ours, implicit, rtol=1e-8)


@functools.cache
def bargained() -> Rollout:
    return train(bilevel.auxi_nash(learning_rate=0.05), quadratics(), 30)


def test_auxi_nash_bargains_with_preferences_that_sum_to_k() -> None:
    preferences = bargained().states.values
    np.testing.assert_allclose(preferences.sum(axis=1), 3, rtol=1e-12)
    assert preferences.min() > 0 and np.ptp(preferences, axis=0).min() > 0.01
    problem = quadratics()
    with jax.enable_x64(True):
        x = jnp.asarray(bargained().points[-2])
        g = np.asarray(jax.jacobian(problem.losses)(x))[:-1]
    weights = bargained().weights[-1]
    np.testing.assert_allclose(g @ g.T @ weights, preferences[-2] / weights, rtol=1e-8)
    np.testing.assert_allclose(np.sum(bargained().directions ** 2, axis=1), 3, rtol=1e-8)


def test_auxi_nash_moves_its_preferences_by_sgd_with_momentum() -> None:
    problem, momentum, p = quadratics(), np.zeros(3), np.ones(3)
    points = np.concatenate([np.zeros((1, SIZE)), bargained().points])

    def slope_at(x: Any, p: Any) -> Any:
        seen = problem.signals(x)
        assert seen.gramian is not None and seen.gradients is not None and seen.held_out is not None
        w = nash(seen.gramian, p)
        return bilevel.preference_slope(seen.gramian, p, w, bilevel.step_slope(seen.held_out, w, seen.gradients))

    with jax.enable_x64(True):
        slope_of = jax.jit(slope_at)
        for t in range(10):
            slope = np.asarray(slope_of(jnp.asarray(points[t]), jnp.asarray(p)))
            momentum = 0.9 * momentum + slope * min(1, 1 / np.linalg.norm(slope))
            p = np.maximum(p - 0.05 * momentum, 1e-4)
            p = 3 * p / p.sum()
            np.testing.assert_allclose(bargained().states.values[t], p, rtol=1e-8)


def test_fork_merge_takes_the_best_of_its_candidates() -> None:
    problem = quadratics()
    result = train(bilevel.fork_merge(), problem, 12)
    grid = {(1.0, 0.0, 0.0)}
    for c in (0.2, 0.4, 0.6, 0.8, 1.0):
        grid |= {(1.0, c, c), (1.0, c, 0.0), (1.0, 0.0, c)}
    points = np.concatenate([np.zeros((1, SIZE)), result.points])
    chosen = set()
    with jax.enable_x64(True):
        rows = jnp.asarray(sorted(grid))
        gradients = jax.jit(jax.jacobian(problem.losses))
        held_out = jax.jit(lambda x, g: jax.vmap(lambda w: problem.held_out_loss(x - problem.rate * w @ g))(rows))
        for x, weights in zip(points[:-1], result.weights, strict=True):
            best = np.asarray(rows[jnp.argmin(held_out(x, gradients(x)[:-1]))])
            np.testing.assert_allclose(weights, best, rtol=1e-12)
            chosen.add(tuple(weights))
    assert len(chosen) > 1


def test_fork_merge_has_as_many_candidates_as_it_says_and_main_alone_comes_first() -> None:
    for count, expected in ((1, 1), (2, 6), (3, 16), (5, 26)):
        rows = np.asarray(bilevel.candidates(count))
        assert len({tuple(row) for row in rows}) == len(rows) == expected
        np.testing.assert_array_equal(rows[:, 0], 1)
        np.testing.assert_array_equal(rows[0], np.eye(count)[0])


def scaled(weight: float) -> Weighting:
    """Main with weight 1 and every head with the same constant one."""
    weights = jnp.full(3, weight, jnp.float32).at[0].set(1.0)
    return CONSTANT._replace(update=lambda signals, state: (Update(weights), state))


def harmful() -> Quadratics:
    """Main from few examples, a head with main's optimum, and a head that pulls the other way."""
    draw = np.random.default_rng(1)
    optimum = draw.normal(size=SIZE)
    flat = np.diag([1.0, 1.0, 0.05, 0.05, 0.05, 0.05])
    matrices = np.stack([flat, np.eye(SIZE), np.eye(SIZE), np.eye(SIZE)])
    return Quadratics(matrices, np.stack([optimum, optimum, -3 * optimum, optimum]), 0.1)


@pytest.mark.parametrize(
    ("weighting", "unlearned"),
    [(bilevel.auto_lambda(learning_rate=0.02), scaled(0.1)), (bilevel.fork_merge(), scaled(1.0))],
    ids=["auto_lambda", "fork_merge"],
)
def test_a_helpful_head_gets_more_than_a_harmful_one(weighting: Weighting, unlearned: Weighting) -> None:
    problem = harmful()
    result = train(weighting, problem, 60)
    assert np.all(result.weights[10:, 1] > result.weights[10:, 2])
    with jax.enable_x64(True):
        held_out, without = (
            np.asarray(jax.vmap(problem.held_out_loss)(jnp.asarray(run.points[-10:]))).mean()
            for run in (result, train(unlearned, problem, 60))
        )
    assert held_out < 0.5 * without


def test_a_helpful_head_bargains_with_more_power_than_a_harmful_one() -> None:
    preferences = train(bilevel.auxi_nash(learning_rate=0.1), harmful(), 60).states.values
    assert np.all(preferences[10:, 1] > preferences[10:, 2]) and preferences[-1, 2] < 0.9


@pytest.mark.parametrize("make", MAKES)
def test_hard_gradients_in_single_precision(make: Any) -> None:
    for count in (1, 4):
        hard, result = roll_hard(make(), count)
        if count == 1:
            np.testing.assert_array_equal(result.directions, hard[:, 0].astype(np.float32))
            np.testing.assert_array_equal(result.weights, 1)


@pytest.mark.parametrize("make", MAKES)
def test_a_held_out_loss_that_is_not_a_number_is_survived(make: Any) -> None:
    g = steps(3, count=1, runs=1)[0, 0].astype(np.float32)

    def lost(direction: Any) -> tuple[Any, Any]:
        """Only main alone does not get lost."""
        loss = jnp.where(jnp.all(as_vector(direction) == g[0]), 1.0, jnp.nan)
        return loss, as_tree(loss * g[0])

    held_out = HeldOut(lost, lambda w, v: v, jnp.asarray(0.1))
    trees = tuple(as_tree(jnp.asarray(row)) for row in g)
    seen = everything(jnp.asarray(g), jnp.ones(3), held_out)
    weighting = make()
    start = weighting.init(("main", "a", "b"), trees[0])
    update, state = jax.jit(lambda state: weighting.update(seen, state))(start)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves((update, state)))
    if make is bilevel.fork_merge:
        np.testing.assert_array_equal(update.weights, [1, 0, 0])


def test_bad_parameters_are_errors() -> None:
    for make in (
        lambda: bilevel.auto_lambda(initial=-1.0), lambda: bilevel.auto_lambda(learning_rate=0.0),
        lambda: bilevel.auxi_nash(learning_rate=-1.0),
    ):  # fmt: skip
        with pytest.raises(AuxjaxError, match="must be"):
            make()


def lengths(rows: Array) -> Array:
    return np.linalg.norm(rows, axis=-1)


def test_cut_keeps_directions_and_bounds_lengths() -> None:
    for scale in (0.1, 3.0, 1e30):
        tree = as_tree(jnp.asarray(START * scale, jnp.float32))
        ours = np.concatenate([np.ravel(x) for x in jax.tree.leaves(jax.jit(bilevel.cut)(tree, 1.0))])
        assert lengths(ours) <= 1 + 1e-6
        if scale < 1e19:
            expected = START * scale * min(1.0, 1 / float(lengths(START * scale)))
            np.testing.assert_allclose(ours, expected, rtol=1e-5)
