"""Controllers as weightings: what they learn from, and where they end on a quadratic whose best factor is known."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.weighting import bandits, policy
from auxjax.weighting.controllers import REWARDS, Bandit, Reservoir, controller, grid, remember, rescaled
from auxjax.weighting.protocol import HeldOut, Signals, Weighting
from auxjax.weighting.registry import FAMILIES, choose

NAMES = ("main", "aux1", "aux2")
METHODS = bandits.METHODS | policy.METHODS


def signals_at(x: jax.Array, help_: Any, step: jax.Array, key: jax.Array, steps: int) -> Signals:
    """Main's loss is x^2 / 2 and each of two heads pulls `help_` times as hard, in or against its direction."""
    losses = 0.5 * x**2 * jnp.stack([jnp.ones(()), help_, help_])
    gradients = x * jnp.stack([jnp.ones(()), help_, help_])
    held_out = HeldOut(lambda d: (0.4 * x**2, 0.8 * x), lambda w, v: v, jnp.float32(1.0))
    return Signals(
        step, step / steps, key, losses, jnp.outer(gradients, gradients), held_out=held_out, losses_after=None
    )


def train(weighting: Weighting, help_: Any, key: jax.Array, steps: int, rate: float = 2e-5) -> tuple[Any, ...]:
    """Returns (final state, weights [steps, 3], main's losses [steps + 1]) of descent on that toy from x = 1."""

    def one_step(carry: tuple[jax.Array, Any], step: jax.Array) -> tuple[tuple[jax.Array, Any], Any]:
        x, state = carry
        signals = signals_at(x, help_, step, jax.random.fold_in(key, step), steps)
        update, state = weighting.update(signals, state)
        x = x - rate * jnp.dot(update.weights, jnp.stack([x, help_ * x, help_ * x]))
        if weighting.finish is not None:
            after = signals_at(x, help_, step, key, steps).losses
            state = weighting.finish(signals._replace(losses_after=after), state)
        return (x, state), (update.weights, 0.5 * x**2)

    start = (jnp.ones(()), weighting.init(NAMES, {}))
    (_, state), (weights, losses) = jax.lax.scan(one_step, start, jnp.arange(steps))
    return state, weights, jnp.concatenate([jnp.full(1, 0.5), losses])


def ends_on(weighting: Weighting, help_: jax.Array, steps: int) -> np.ndarray[Any, Any]:
    """Returns the heads' factors [2, 4, steps] of four seeds, for heads that help and for heads that hurt."""
    keys = jax.random.split(jax.random.key(0), 4)
    seeds = jax.vmap(lambda sign, key: train(weighting, sign * help_, key, steps)[1], in_axes=(None, 0))
    weights = np.asarray(jax.jit(jax.vmap(seeds, in_axes=(0, None)))(jnp.array([1.0, -1.0]), keys))
    assert np.isfinite(weights).all() and (weights[..., 0] == 1).all()
    assert (weights[..., 1] == weights[..., 2]).all()
    return weights[..., 1]


@pytest.mark.parametrize(
    ("name", "reward", "numbers"),
    [
        ("exp3", "held_out", {"learning_rate": 0.05}), ("exp3s", "prediction_gain", {"learning_rate": 0.05}),
        ("discounted_ucb", "training", {"width": 0.1}), ("thompson", "predicted", {"noise": 0.5}),
        ("policy", "held_out", {"learning_rate": 0.03}),
    ],
)  # fmt: skip
def test_it_ends_on_the_best_factor_of_a_quadratic(name: str, reward: str, numbers: dict[str, Any]) -> None:
    steps = 800
    made = METHODS[name].make(reward=reward, period_steps=2, **numbers)
    helping, hurting = ends_on(made, jnp.float32(3.0), steps)
    assert (helping[:, -steps // 4 :] == 1.0).mean() > 0.6
    assert (hurting[:, -steps // 4 :] == 0.0).mean() > 0.6


def still(arm: int = 1) -> Bandit:
    """A bandit that always draws the same arm and keeps the last reward."""
    return Bandit(lambda losses: jnp.zeros(()), lambda key, state: jnp.int32(arm), lambda state, arm, reward: reward)


@pytest.mark.parametrize("reward", list(REWARDS))
def test_the_reward_is_the_fall_of_mains_loss_over_each_period(reward: str) -> None:
    weighting = controller(still(), (0.0, 0.5), 3, reward)
    assert weighting.needs == REWARDS[reward]
    rate, steps = 1e-2, 14
    state, weights, losses = train(weighting, jnp.float32(2.0), jax.random.key(0), steps, rate)
    np.testing.assert_array_equal(weights, np.tile([1.0, 0.5, 0.5], (steps, 1)))
    # The loss at the start of each period; the fifth has only two steps behind it and is not yet learned from.
    falls = -np.diff(np.asarray(losses)[:13:3])
    # main's gradient is x, so that g_0 . d = (1 + 2 * 0.5 * 2) x^2 = 6 x^2 / 2.
    expected = {"held_out": 0.8 * falls, "predicted": 6 * np.asarray(losses)[:12].reshape(4, 3).sum(axis=1)}
    assert int(state.reservoir.falls) == 4
    np.testing.assert_allclose(state.reservoir.values[:4], expected.get(reward, falls), rtol=2e-5)
    assert float(state.bandit) == 0.0


def test_a_new_arm_comes_at_the_period_and_from_the_key_alone() -> None:
    weighting = bandits.thompson(period_steps=4, arms=101, reward="predicted")
    traces = []

    @jax.jit
    def run(key: jax.Array) -> jax.Array:
        traces.append(key)
        factors: jax.Array = train(weighting, jnp.float32(1.0), key, 40)[1][:, 1]
        return factors

    first, again, other = run(jax.random.key(0)), run(jax.random.key(0)), run(jax.random.key(1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(first, np.repeat(first[::4], 4))
    assert len(np.unique(first[::4])) > 5
    assert len(traces) == 1


@pytest.mark.parametrize("name", list(METHODS))
def test_one_loss_alone_keeps_weight_one_and_bad_numbers_do_no_harm(name: str) -> None:
    weighting = METHODS[name].make(period_steps=1, reward="training")
    update = jax.jit(weighting.update)
    state = weighting.init(("main",), {})
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    for step, loss in enumerate((1.0, jnp.nan, 0.5, jnp.inf, 0.0, 0.0)):
        losses = jnp.full(1, loss, jnp.float32)
        signals = Signals(jnp.int32(step), jnp.float32(0.1), jax.random.key(step), losses, losses.reshape(1, 1))
        decided, state = update(signals, state)
        np.testing.assert_array_equal(decided.weights, [1.0])
    # The first loss starts; of five falls only 0.0 - 0.0 is a number.
    assert int(state.reservoir.falls) == 1
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == shapes
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.bandit, state.reservoir)))


@pytest.mark.parametrize(("name", "reward"), [*zip(bandits.METHODS, REWARDS, strict=True), ("policy", "held_out")])
def test_float64_stays_float64_and_the_state_keeps_its_types(name: str, reward: str) -> None:
    weighting = METHODS[name].make(reward=reward)
    for wide in (False, True):
        with jax.enable_x64(wide):
            state, weights, _ = jax.eval_shape(
                lambda: train(weighting, jnp.ones(()), jax.random.key(0), 2)  # scan refuses a state that changes
            )
        assert weights.dtype == (jnp.float64 if wide else jnp.float32)
        assert state.level.dtype == weights.dtype


def test_rewards_are_linear_between_the_percentiles_and_clipped_outside() -> None:
    values = np.random.default_rng(0).normal(size=37).astype(np.float32)
    reservoir, scaled = Reservoir(jnp.zeros(64).at[:37].set(values), jnp.int32(37)), jax.jit(rescaled)
    low, high = np.percentile(values, [20, 80])
    for lowest in (0.0, -1.0):
        found = [float(scaled(reservoir, jnp.float32(v), lowest)) for v in (low, (low + high) / 2, high)]
        np.testing.assert_allclose(found, [lowest, (lowest + 1) / 2, 1.0], atol=1e-6)
        outside = [float(scaled(reservoir, jnp.float32(v), lowest)) for v in (-9.0, 9.0, np.nan, -np.inf)]
        assert outside == [lowest, 1.0, lowest, lowest]
    constant = Reservoir(jnp.ones(4), jnp.int32(3))
    assert float(scaled(constant, jnp.ones(()), -1.0)) == 0.0


def test_the_reservoir_keeps_every_fall_equally_often() -> None:
    def kept(key: jax.Array) -> jax.Array:
        def add(reservoir: Reservoir, item: tuple[jax.Array, jax.Array]) -> tuple[Reservoir, None]:
            return remember(item[0], reservoir, item[1]), None

        items = (jax.random.split(key, 13), jnp.where(jnp.arange(13) == 5, jnp.nan, jnp.arange(13.0)))
        return jax.lax.scan(add, Reservoir(jnp.zeros(4), jnp.int32(0)), items)[0].values

    found = np.asarray(jax.jit(jax.vmap(kept))(jax.random.split(jax.random.key(0), 6000)))
    shares = np.bincount(found.astype(int).ravel(), minlength=13) / 6000
    np.testing.assert_allclose(shares, np.where(np.arange(13) == 5, 0.0, 4 / 12), atol=0.03)


def test_the_grid_has_both_ends_and_missing_signals_are_named() -> None:
    np.testing.assert_allclose(grid(0.1, 0.5, 5), [0.1, 0.2, 0.3, 0.4, 0.5])
    weighting = bandits.exp3(reward="training")
    state = weighting.init(NAMES, {})
    with pytest.raises(AuxjaxError, match="lack losses"):
        weighting.update(Signals(jnp.int32(0), jnp.float32(0), jax.random.key(0)), state)


@pytest.mark.parametrize("name", FAMILIES["controllers"])
def test_a_controller_is_not_averaged(name: str) -> None:
    with pytest.raises(AuxjaxError, match="a controller is paid for the weights that it chose"):
        choose({"name": name, "ema": 0.9})
