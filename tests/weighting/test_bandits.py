"""Bandits on rewards that are drawn, apart from any training: regret, recovery, and the published update."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.weighting.bandits import METHODS, Scores, exponential_weights, posterior_sampling, upper_confidence
from auxjax.weighting.controllers import Bandit
from auxjax.weighting.protocol import PROMISES
from tests.weighting.playing import ARMS, STATIONARY, play, regrets, slope, tracking_regret


def test_exp3_keeps_its_published_bound_and_grows_as_the_square_root() -> None:
    found = []
    for rounds in (1000, 8000):
        # Auer et al. 2002, corollary 3.2.
        exploration = min(1.0, math.sqrt(ARMS * math.log(ARMS) / ((math.e - 1) * rounds)))
        regret = regrets(exponential_weights(ARMS, exploration / ARMS, exploration), rounds)[-1]
        assert regret < 2 * math.sqrt((math.e - 1) * rounds * ARMS * math.log(ARMS))
        found.append(regret)
    assert 0.4 < slope(found[0], found[1], ratio=8) < 0.6


@pytest.mark.parametrize("name", ["upper_confidence", "posterior_sampling"])
def test_stationary_regret_is_logarithmic(name: str) -> None:
    bandit = upper_confidence(ARMS, 1.0, 0.5) if name == "upper_confidence" else posterior_sampling(ARMS, 1.0, 1.0)
    found = regrets(bandit, 8000)
    assert slope(found[999], found[-1], ratio=8) < 0.35
    # The bound of UCB1 (Auer et al. 2002, Machine Learning 47, theorem 1), which Thompson sampling keeps as well.
    gaps = STATIONARY.max() - STATIONARY[:-1]
    assert found[-1] < (8 * math.log(8000) / gaps).sum() + (1 + math.pi**2 / 3) * gaps.sum()


@pytest.mark.parametrize(
    ("tracking", "plain"),
    [
        (exponential_weights(ARMS, 0.04, 0.1, share=1.0, lowest=-1.0), exponential_weights(ARMS, 0.04, 0.1)),
        (upper_confidence(ARMS, 0.9975, 0.1), upper_confidence(ARMS, 1.0, 0.1)),
        (posterior_sampling(ARMS, 0.99, 1.0), posterior_sampling(ARMS, 1.0, 1.0)),
    ],
    ids=["exp3s", "discounted_ucb", "thompson"],
)
def test_a_forgetting_bandit_finds_a_new_best_arm_and_a_plain_one_is_slower(tracking: Bandit, plain: Bandit) -> None:
    rounds = 4000
    # The old best arm stays what it is, so that nothing but exploration can tell.
    means = np.full((rounds, ARMS), 0.1, np.float32)
    means[:, 1] = 0.5
    means[rounds // 2 :, 3] = 0.9
    found = play(tracking, means)
    assert (found[:, rounds // 4 : rounds // 2] == 1).mean() > 0.6
    assert (found[:, -rounds // 4 :] == 3).mean() > 0.6
    after = slice(rounds // 2, 3 * rounds // 4)
    assert (found[:, after] == 3).mean() > (play(plain, means)[:, after] == 3).mean() + 0.2


@pytest.mark.slow_study
@pytest.mark.parametrize("name", ["exp3s", "discounted_ucb", "thompson"])
def test_regret_over_a_switch_is_of_the_published_order(name: str) -> None:
    """sqrt(T log T) for EXP3.S, and sqrt(T) log T for a discounted index, up to what small T add to the exponent."""
    found, rounds = [], (16_000, 128_000)
    for t in rounds:
        discount = 1 - 0.25 / math.sqrt(t)  # Garivier & Moulines 2011, section 3, one breakpoint
        # Auer et al. 2002, corollary 8.2, two segments.
        hardness = 2 * math.log(ARMS * t) + math.e
        exploration = min(1.0, math.sqrt(ARMS * hardness / ((math.e - 1) * t)))
        bandit = {
            "exp3s": exponential_weights(ARMS, exploration / ARMS, exploration, share=1.0),
            "discounted_ucb": upper_confidence(ARMS, discount, 0.5),
            "thompson": posterior_sampling(ARMS, discount, 1.0),
        }[name]
        found.append(tracking_regret(bandit, t))
        if name == "exp3s":
            assert found[-1] < 2 * math.sqrt((math.e - 1) * t * ARMS * hardness)
    assert 0.4 < slope(found[0], found[1], ratio=8) < 0.75


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_exponential_weights_equal_the_published_update(share: float) -> None:
    eta, epsilon, beta = 0.3, 0.05, 0.02
    bandit = exponential_weights(ARMS, eta, epsilon, share, beta, lowest=-1.0)
    learn = jax.jit(bandit.learn)
    state, weights = bandit.init(1), np.zeros(ARMS)
    draws = np.random.default_rng(0)
    for count in range(30):
        arm, reward = draws.integers(ARMS), draws.uniform(-1, 1)
        policy = (1 - epsilon) * np.exp(weights) / np.exp(weights).sum() + epsilon / ARMS
        moved = np.exp(weights + eta * (reward * (np.arange(ARMS) == arm) + beta) / policy)
        alpha = share / (count + 2)
        others = np.array([sum(moved[j] for j in range(ARMS) if j != i) for i in range(ARMS)])
        weights = np.log((1 - alpha) * moved + alpha / (ARMS - 1) * others)
        state = learn(state, jnp.int32(arm), jnp.float32(reward))
    np.testing.assert_allclose(jax.nn.softmax(state.scores), np.exp(weights) / np.exp(weights).sum(), atol=1e-5)


def test_every_arm_keeps_its_share_of_the_exploration_however_far_the_scores_are_apart() -> None:
    bandit = exponential_weights(ARMS, 0.1, 0.2)
    scores = Scores(jnp.array([0.0, -1e4, -1e4, -1e4, -1e4]), jnp.int32(9))
    drawn = jax.vmap(bandit.choose, in_axes=(0, None))(jax.random.split(jax.random.key(1), 20_000), scores)
    np.testing.assert_allclose(np.bincount(drawn, minlength=ARMS) / 20_000, [0.84, 0.04, 0.04, 0.04, 0.04], atol=0.01)
    learned = bandit.learn(scores, jnp.int32(1), jnp.float32(1.0))
    assert np.isfinite(learned.scores).all()


def test_discounted_ucb_draws_the_arm_of_the_published_index() -> None:
    gamma, xi = 0.9, 0.6
    bandit = upper_confidence(ARMS, gamma, xi)
    choose, learn = jax.jit(bandit.choose), jax.jit(bandit.learn)
    state, past = bandit.init(1), np.zeros((0, 2))
    draws = np.random.default_rng(0)
    for count in range(40):
        arm = int(choose(jax.random.key(count), state))
        ages = gamma ** np.arange(len(past))[::-1]
        counts = np.array([ages[past[:, 0] == i].sum() for i in range(ARMS)])
        if count < ARMS:
            assert arm == count
        else:
            sums = np.array([(ages * past[:, 1])[past[:, 0] == i].sum() for i in range(ARMS)])
            index = sums / counts + 2 * np.sqrt(xi * np.log(counts.sum()) / counts)
            assert index[arm] > index.max() - 1e-4
        reward = draws.uniform()
        past = np.vstack([past, [arm, reward]])
        state = learn(state, jnp.int32(arm), jnp.float32(reward))


def test_thompson_draws_from_the_posterior_of_the_published_algorithm() -> None:
    bandit = posterior_sampling(2, 1.0, 1.0)
    state = bandit.init(1)
    for arm, reward in ((0, 1.0), (0, 0.0), (0, 1.0), (1, 0.5)):
        state = bandit.learn(state, jnp.int32(arm), jnp.float32(reward))
    drawn = jax.vmap(bandit.choose, in_axes=(0, None))(jax.random.split(jax.random.key(0), 40_000), state)
    # N(2 / 4, 1 / 4) against N(1 / 4, 1 / 2): the difference is N(1 / 4, 3 / 4).
    first = 0.5 * (1 + math.erf(0.25 / math.sqrt(2 * 0.75)))
    assert abs(float((drawn == 0).mean()) - first) < 0.01


def test_registry_is_complete_and_promises_exist() -> None:
    assert set(METHODS) == {"exp3", "exp3s", "discounted_ucb", "thompson"}
    assert all(method.promises <= set(PROMISES) for method in METHODS.values())


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("exp3", {"arms": 1}), ("exp3", {"exploration": 0.0}), ("exp3s", {"share": 2.0}), ("thompson", {"discount": 0.0}),
     ("discounted_ucb", {"discount": 1.5}), ("exp3", {"low": 1.0}), ("exp3", {"period_steps": 0}),
     ("exp3", {"reward": "heldout"})],
)  # fmt: skip
def test_a_parameter_out_of_range_is_one_line(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(AuxjaxError, match=next(iter(wrong)).split("_")[0]) as raised:
        METHODS[name].make(**wrong)
    assert "\n" not in str(raised.value)
