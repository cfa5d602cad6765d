"""Bandits playing for rewards that are drawn, apart from any training, and what they lose against the best arm."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from auxjax.weighting.controllers import Bandit

ARMS = 5
STATIONARY = np.array([0.3, 0.4, 0.5, 0.6, 0.9], np.float32)


def play(bandit: Bandit, means: np.ndarray[Any, Any], seeds: int = 8) -> np.ndarray[Any, Any]:
    """Returns the arms drawn, [seeds, T], where means [T, N] are those of rewards that are `lowest` or 1."""

    def one_round(state: Any, at: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        choice_key, reward_key = jax.random.split(at[0])
        arm = bandit.choose(choice_key, state)
        reward = jnp.where(jax.random.bernoulli(reward_key, at[1][arm]), 1.0, bandit.lowest)
        return bandit.learn(state, arm, reward), arm

    def one_seed(key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, len(means))
        return jax.lax.scan(one_round, bandit.init(1), (keys, jnp.asarray(means)))[1]

    return np.asarray(jax.jit(jax.vmap(one_seed))(jax.random.split(jax.random.key(0), seeds)))


def tracking_regret(bandit: Bandit, rounds: int) -> float:
    """Returns the mean regret against the best arm of each round, where the worst becomes the best in the middle."""
    means = np.broadcast_to(STATIONARY, (rounds, ARMS)).copy()
    means[rounds // 2 :] = STATIONARY[::-1]
    arms = play(bandit, means)
    return float(np.sum(means.max(1) - np.take_along_axis(means[None], arms[..., None], 2)[..., 0], axis=1).mean())


def regrets(bandit: Bandit, rounds: int) -> np.ndarray[Any, Any]:
    """Returns the mean regret after each of the rounds with STATIONARY means, [rounds]."""
    arms = play(bandit, np.broadcast_to(STATIONARY, (rounds, ARMS)))
    return np.cumsum(STATIONARY.max() - STATIONARY[arms], axis=1).mean(axis=0)


def slope(early: float, late: float, ratio: float) -> float:
    """Returns the exponent p of a regret that grows as T^p."""
    return math.log(late / early) / math.log(ratio)
