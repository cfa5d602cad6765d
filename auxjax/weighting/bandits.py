"""Bandits that choose the factor of all heads: EXP3, EXP3.S, discounted UCB and Thompson sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from auxjax.errors import AuxjaxError
from auxjax.weighting.controllers import Bandit, controller, grid
from auxjax.weighting.protocol import Method, Weighting


class Scores(NamedTuple):
    """EXP3's state: log-weights [N] and how many rewards have been seen."""

    scores: jax.Array
    rewards: jax.Array


class Counts(NamedTuple):
    """The discounted counts [N] of draws and sums [N] of rewards."""

    counts: jax.Array
    sums: jax.Array


def exponential_weights(
    arms: int, learning_rate: float, exploration: float, share: float = 0.0, bias: float = 0.0, lowest: float = 0.0
) -> Bandit:
    """Returns EXP3, and EXP3.S where `share` > 0.

    pi = (1 - eps) softmax(S) + eps / N; after the reward r of arm a, S'_i = S_i + eta (r [i = a] + beta) / pi_i, and
    S_i = log((1 - s) exp(S'_i) + s / (N - 1) sum_{j != i} exp(S'_j)) with s = share / t at draw t.
    """
    _check(arms >= 2, f"arms must be at least 2, not {arms}")
    _check(0 < exploration <= 1, f"exploration must lie in (0, 1], not {exploration}")
    _check(0 <= share <= 1, f"share must lie in [0, 1], not {share}")

    def policy(state: Scores) -> jax.Array:
        return (1.0 - exploration) * jax.nn.softmax(state.scores) + exploration / arms

    def choose(key: jax.Array, state: Scores) -> jax.Array:
        return jax.random.categorical(key, jnp.log(policy(state)))

    def learn(state: Scores, arm: jax.Array, reward: jax.Array) -> Scores:
        gains = jnp.where(jnp.arange(arms) == arm, reward, 0.0) + bias
        moved = jax.nn.log_softmax(state.scores + learning_rate * gains / policy(state))
        moving = share / (state.rewards + 2.0)
        others = jnp.log1p(-jnp.exp(moved)) + jnp.log(moving / (arms - 1))
        shared = jnp.logaddexp(moved + jnp.log1p(-moving), others)
        return Scores(jnp.asarray(shared, state.scores.dtype), state.rewards + 1)

    return Bandit(lambda losses: Scores(jnp.zeros(arms), jnp.zeros((), jnp.int32)), choose, learn, lowest)


def upper_confidence(arms: int, discount: float, width: float) -> Bandit:
    """Returns discounted UCB for rewards in [0, 1]: the arm of the largest mean_i + 2 sqrt(xi log(n) / N_i).

    N_i and mean_i are counts and means discounted by `discount` a draw, n = sum_i N_i, xi = `width`; each arm is drawn
    once first.
    """
    _check(arms >= 2, f"arms must be at least 2, not {arms}")
    _check(0 < discount <= 1, f"discount must lie in (0, 1], not {discount}")

    def choose(key: jax.Array, state: Counts) -> jax.Array:
        seen = jnp.maximum(state.counts, jnp.finfo(state.counts.dtype).tiny)
        bonus = 2.0 * jnp.sqrt(width * jnp.log(jnp.maximum(jnp.sum(state.counts), 1.0)) / seen)
        return jnp.argmax(jnp.where(state.counts > 0, state.sums / seen + bonus, jnp.inf)).astype(jnp.int32)

    return Bandit(lambda losses: Counts(jnp.zeros(arms), jnp.zeros(arms)), choose, _discounted(arms, discount))


def posterior_sampling(arms: int, discount: float, noise: float) -> Bandit:
    """Returns Gaussian Thompson sampling: the arm of the largest draw from N(sums_i / (N_i + 1), noise^2 / (N_i + 1)).

    N_i and sums_i are the counts and sums of rewards in [-1, 1], discounted by `discount` a draw.
    """
    _check(arms >= 2, f"arms must be at least 2, not {arms}")
    _check(0 < discount <= 1, f"discount must lie in (0, 1], not {discount}")

    def choose(key: jax.Array, state: Counts) -> jax.Array:
        normal = jax.random.normal(key, (arms,), state.counts.dtype)
        drawn = state.sums / (state.counts + 1.0) + noise * normal / jnp.sqrt(state.counts + 1.0)
        return jnp.argmax(drawn).astype(jnp.int32)

    return Bandit(lambda losses: Counts(jnp.zeros(arms), jnp.zeros(arms)), choose, _discounted(arms, discount), -1.0)


def _discounted(arms: int, discount: float) -> Callable[[Counts, jax.Array, jax.Array], Counts]:
    def learn(state: Counts, arm: jax.Array, reward: jax.Array) -> Counts:
        drawn = (jnp.arange(arms) == arm).astype(state.counts.dtype)
        sums = discount * state.sums + drawn * reward.astype(state.sums.dtype)
        return Counts(discount * state.counts + drawn, sums)

    return learn


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise AuxjaxError(message)


def exp3(
    *,
    low: float = 0.0,
    high: float = 1.0,
    arms: int = 5,
    period_steps: int = 10,
    reward: str = "held_out",
    learning_rate: float = 0.02,
    exploration: float = 0.1,
) -> Weighting:
    """Draws the heads' common factor by EXP3 from `arms` values between `low` and `high`, anew every `period_steps`.

    pi = (1 - eps) softmax(S) + eps / N; after a period S_a += eta r / pi_a for the arm a that was drawn, r in [0, 1]
    (`controllers.rescaled`). The state holds S, the arm, and a reservoir of rewards. Auer et al. 2002, SIAM J. Comput.
    32(1), section 3, which has eta = eps / N, as here, and for T draws eps = min(1, sqrt(N log N / ((e - 1) T))): 0.1
    for T = 470. Deviations: rewards are rescaled as Graves et al. 2017 do, since a fall has no known bounds. No peer.
    """
    bandit = exponential_weights(arms, learning_rate, exploration)
    return controller(bandit, grid(low, high, arms), period_steps, reward)


def exp3s(
    *,
    low: float = 0.0,
    high: float = 1.0,
    arms: int = 5,
    period_steps: int = 10,
    reward: str = "held_out",
    learning_rate: float = 1e-3,
    exploration: float = 0.05,
    share: float = 1.0,
    bias: float = 0.0,
) -> Weighting:
    """Draws the heads' common factor by EXP3.S, whose shared weights let it follow a best arm that changes.

    As `exp3`, with rewards in [-1, 1]; then S_i = log((1 - s) exp(S'_i) + s / (N - 1) sum_{j != i} exp(S'_j)), where
    S'_i = S_i + eta (r [i = a] + beta) / pi_i and s = share / t at draw t, beta = `bias`. State as `exp3`. Graves et
    al. 2017, arXiv 1704.03003, sections 2 and 3, with its eta, beta and eps; reward="prediction_gain" and
    period_steps=1 are its prediction gain. That eta is made for 10^5 draws: take 1e-2 or more for 10^3. Deviations: the
    gain is main's alone, and is not divided by the step's time, which is the same for all arms. No peer.
    """
    bandit = exponential_weights(arms, learning_rate, exploration, share, bias, lowest=-1.0)
    return controller(bandit, grid(low, high, arms), period_steps, reward)


def discounted_ucb(
    *,
    low: float = 0.0,
    high: float = 1.0,
    arms: int = 5,
    period_steps: int = 10,
    reward: str = "held_out",
    discount: float = 0.99,
    width: float = 0.6,
) -> Weighting:
    """Takes the heads' common factor of the largest discounted upper confidence bound, anew every `period_steps`.

    argmax_i mean_i + 2 B sqrt(xi log(n) / N_i), where N_i and mean_i are discounted by gamma a draw, n = sum_i N_i,
    B = 1 as rewards lie in [0, 1], and xi = `width`; gamma = 1 is UCB1 at xi = 1/2. The state holds N and the sums of
    rewards. Garivier & Moulines 2008, arXiv 0805.3415, section 2: xi > 1/2 in its theorem, gamma = 1 - 1 / (4 sqrt(T))
    for T draws, 0.99 for T = 625. Deviations: rewards are rescaled, see `exp3`. No peer.
    """
    return controller(upper_confidence(arms, discount, width), grid(low, high, arms), period_steps, reward)


def thompson(
    *,
    low: float = 0.0,
    high: float = 1.0,
    arms: int = 5,
    period_steps: int = 10,
    reward: str = "held_out",
    discount: float = 0.99,
    noise: float = 1.0,
) -> Weighting:
    """Draws the heads' common factor by discounted Gaussian Thompson sampling, anew every `period_steps`.

    argmax_i of a draw from N(s_i / (N_i + 1), sigma^2 / (N_i + 1)); the counts N_i and sums s_i of rewards in [-1, 1]
    are discounted by gamma a draw and are the state. Agrawal & Goyal 2013, arXiv 1209.3353, algorithm 2 (gamma = 1,
    sigma = 1); Qi et al. 2023, arXiv 2305.10718, for the discount, which goes on the counts as in discounted UCB.
    Deviations: rewards are rescaled, see `exp3`. No peer.
    """
    return controller(posterior_sampling(arms, discount, noise), grid(low, high, arms), period_steps, reward)


PROMISED = frozenset({"main_one", "heads_symmetric"})
METHODS: dict[str, Method] = {
    "exp3": Method(exp3, "Auer et al. 2002, SIAM J. Comput. 32(1), section 3", PROMISED, "none"),
    "exp3s": Method(exp3s, "Graves et al. 2017, arXiv 1704.03003, sections 2 and 3", PROMISED, "none"),
    "discounted_ucb": Method(discounted_ucb, "Garivier & Moulines 2008, arXiv 0805.3415, section 2", PROMISED, "none"),
    "thompson": Method(thompson, "Agrawal & Goyal 2013, arXiv 1209.3353, algorithm 2", PROMISED, "none"),
}
