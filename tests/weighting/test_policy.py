"""The actor-critic apart from training: what it sees, one step of learning, and a toy whose best arm changes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.weighting.controllers import Bandit
from auxjax.weighting.policy import METHODS, actor_critic, features, policy
from auxjax.weighting.protocol import PROMISES, Signals
from tests.weighting.playing import ARMS, STATIONARY, play, regrets, slope, tracking_regret


def by_progress(learning_rate: float = 0.02, entropy: float = 0.01) -> Bandit:
    """An actor-critic that sees the progress alone, as the two features p and 1."""
    return actor_critic(
        arms=ARMS, width=16, learning_rate=learning_rate, entropy=entropy, size=lambda losses: 2,
        look=lambda signals: jnp.stack([signals.progress, jnp.ones(())]),
    )  # fmt: skip


def at(progress: Any) -> Signals:
    return Signals(jnp.int32(0), jnp.asarray(progress, jnp.float32))


def chances(bandit: Bandit, state: Any) -> np.ndarray[Any, Any]:
    """Returns how often each arm is drawn in the state, [ARMS]."""
    arms = jax.vmap(bandit.choose, in_axes=(0, None))(jax.random.split(jax.random.key(7), 20_000), state)
    return np.bincount(arms, minlength=ARMS) / 20_000


def test_it_learns_that_the_best_arm_depends_on_progress() -> None:
    bandit, rounds = by_progress(), 2000

    def one_round(state: Any, key: jax.Array) -> tuple[Any, Any]:
        choice_key, reward_key, place_key = jax.random.split(key, 3)
        progress = jax.random.uniform(place_key)
        state = bandit.observe(at(progress), state)
        arm = bandit.choose(choice_key, state)
        best = jnp.where(progress < 0.5, 1, 3)
        reward = jnp.where(jax.random.bernoulli(reward_key, jnp.where(arm == best, 0.9, 0.1)), 1.0, bandit.lowest)
        return bandit.learn(state, arm, reward), (arm == best, progress)

    play = jax.jit(jax.vmap(lambda key: jax.lax.scan(one_round, bandit.init(1), jax.random.split(key, rounds))[1]))
    right, progress = (np.asarray(x)[:, -rounds // 4 :] for x in play(jax.random.split(jax.random.key(0), 8)))
    # Without the context no policy is right more than half of the time.
    assert right.mean() > 0.75
    assert right[progress < 0.5].mean() > 0.6 and right[progress > 0.5].mean() > 0.6


def at_rest(entropy: float) -> Bandit:
    """The actor-critic where what it sees never changes, so that rewards alone can tell."""
    bandit = by_progress(learning_rate=0.01, entropy=entropy)
    return bandit._replace(init=lambda losses: bandit.observe(at(0.5), bandit.init(losses)))


def test_it_finds_the_best_arm_and_loses_ever_less() -> None:
    found = regrets(at_rest(entropy=0.2), 8000)
    assert found[-1] < 0.1 * 8000 * (STATIONARY.max() - STATIONARY.mean())
    assert slope(found[999], found[-1], ratio=8) < 0.8


def test_it_recovers_after_a_switch_that_only_exploration_can_tell_and_one_of_little_entropy_is_slower() -> None:
    means = np.full((4000, ARMS), 0.1, np.float32)
    means[:, 1] = 0.5
    means[2000:, 3] = 0.9
    found = play(at_rest(entropy=0.2), means)
    assert (found[:, 1000:2000] == 1).mean() > 0.8 and (found[:, 3000:] == 3).mean() > 0.8
    assert (found[:, 3000:] == 3).mean() > (play(at_rest(entropy=0.01), means)[:, 3000:] == 3).mean() + 0.2


@pytest.mark.slow_study
def test_its_regret_over_a_switch_grows_like_that_of_the_bandits() -> None:
    found = [tracking_regret(at_rest(entropy=0.2), rounds) for rounds in (1000, 8000)]
    assert 0.4 < slope(found[0], found[1], ratio=8) < 0.75


def test_the_first_choice_is_uniform_and_each_reward_moves_it_as_it_should() -> None:
    bandit = by_progress(learning_rate=0.1)
    learn = jax.jit(bandit.learn)
    start = bandit.observe(at(0.3), bandit.init(1))
    np.testing.assert_allclose(chances(bandit, start), 1 / ARMS, atol=0.015)
    praised, blamed = (chances(bandit, learn(start, jnp.int32(2), jnp.float32(reward))) for reward in (1.0, -1.0))
    assert praised.argmax() == 2 and blamed.argmin() == 2


def test_the_baseline_takes_away_what_is_expected_and_the_entropy_bonus_flattens() -> None:
    def after(state: Any, bandit: Bandit, times: int, arm: Any, reward: float) -> Any:
        learn = jax.jit(lambda i, s: bandit.learn(s, arm(i), jnp.float32(reward)))
        return jax.lax.fori_loop(0, times, learn, state)

    plain = by_progress(learning_rate=0.02, entropy=0.0)
    # Every arm earns the same: once the value is known, further rewards of one arm say nothing.
    known = after(plain.observe(at(0.3), plain.init(1)), plain, 500, lambda i: i % ARMS, 1.0)
    same = after(known, plain, 1, lambda i: 0, 1.0)
    better = after(known, plain, 1, lambda i: 0, 1.5)
    moves = [float(jnp.abs(s.opt_state[0].mu["biases"]["actor"]).max()) for s in (same, better)]
    assert moves[0] < 0.1 * moves[1]
    flat = by_progress(learning_rate=0.02, entropy=1.0)
    steep = known._replace(params={**known.params, "biases": {**known.params["biases"], "actor": jnp.arange(5.0)}})
    flattened = after(steep, flat, 200, lambda i: i % ARMS, 1.0)
    assert chances(plain, steep).max() > 0.5 and chances(plain, flattened).max() < 0.3


def test_features_are_progress_log_losses_cosines_and_log_norm_ratios() -> None:
    gradients = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32) * np.array([[1], [3], [1e-3], [40]])
    losses = np.array([0.5, 2.0, 1e-2, 7.0], np.float32)
    signals = at(0.25)._replace(losses=jnp.asarray(losses), gramian=jnp.asarray(gradients @ gradients.T, jnp.float32))
    norms = np.linalg.norm(gradients, axis=1)
    cosines = gradients @ gradients[0] / norms / norms[0]
    expected = np.concatenate([[0.25], np.log(losses), cosines[1:], np.log(norms[1:] / norms[0])])
    np.testing.assert_allclose(features(signals), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e-8, 1e8, np.inf, np.nan])
def test_features_are_finite_and_bounded_whatever_comes(scale: float) -> None:
    look = jax.jit(features)
    gradients = jnp.array([[1.0, 0.0], [1.0, 1e-4], [0.0, 0.0]]) * jnp.array([[1.0], [scale], [1.0]])
    losses, gramian = jnp.array([0.0, -1.0, scale]), gradients @ gradients.T
    for order in (np.array([0, 1, 2]), np.array([1, 2, 0]), np.array([2, 0, 1])):
        found = look(at(0.5)._replace(losses=losses, gramian=gramian[order][:, order]))
        assert found.shape == (8,) and np.isfinite(found).all() and np.abs(found).max() <= 10
        assert (np.abs(found[4:6]) <= 1).all()


def test_the_registered_method_needs_losses_gramian_and_its_reward() -> None:
    assert METHODS["policy"].make is policy and METHODS["policy"].promises <= set(PROMISES)
    assert policy().needs == {"losses", "gramian", "held_out"}
    assert policy(reward="predicted").finish is None
    with pytest.raises(AuxjaxError, match="losses and gramian"):
        features(at(0.0))
