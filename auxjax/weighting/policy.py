"""An actor-critic that chooses the factor of all heads from the state of training, not from past rewards alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from auxjax.errors import AuxjaxError
from auxjax.weighting.controllers import Bandit, controller, grid
from auxjax.weighting.protocol import Method, Signals, Weighting

# Keeps the logarithm of a loss or of a norm that is 0 finite.
TINY = 1e-12
FEATURE_LIMIT = 10.0


class Policy(NamedTuple):
    """The network's parameters, its optimizer's state, and the features [F] that the last choice was made from."""

    params: Any
    opt_state: Any
    features: jax.Array


def actor_critic(
    *,
    arms: int,
    width: int,
    learning_rate: float,
    entropy: float,
    size: Callable[[int], int],
    look: Callable[[Signals], jax.Array],
) -> Bandit:
    """Returns a contextual bandit: an MLP of one hidden layer of `width` with a softmax over arms and a value.

    After the reward r of arm a at the features x, one Adam step on
    -(r - V(x)) log pi(a | x) - entropy H(pi(. | x)) + (r - V(x))^2 / 2, the advantage constant in the first term.
    `look(signals)` are the features [F], F = `size(losses)`. The first policy is uniform and the first value 0.
    """
    optimizer = optax.adam(learning_rate)

    def init(losses: int) -> Policy:
        # No key reaches init: the hidden layer is the same at each start, the two outputs start at 0.
        features = size(losses)
        hidden = jax.random.normal(jax.random.key(0), (features, width)) / jnp.sqrt(features)
        zeros = {"actor": jnp.zeros((width, arms)), "critic": jnp.zeros(width)}
        biases = {"hidden": jnp.zeros(width), "actor": jnp.zeros(arms), "critic": jnp.zeros(())}
        params = {"kernels": {"hidden": hidden, **zeros}, "biases": biases}
        return Policy(params, optimizer.init(params), jnp.zeros(features))

    def choose(key: jax.Array, state: Policy) -> jax.Array:
        return jax.random.categorical(key, _forward(state.params, state.features)[0])

    def learn(state: Policy, arm: jax.Array, reward: jax.Array) -> Policy:
        def loss(params: Any) -> jax.Array:
            log_policy, value = _forward(params, state.features)
            advantage = reward - value
            spread = -jnp.sum(jnp.exp(log_policy) * log_policy)
            return -jax.lax.stop_gradient(advantage) * log_policy[arm] - entropy * spread + 0.5 * advantage**2

        updates, opt_state = optimizer.update(jax.grad(loss)(state.params), state.opt_state, state.params)
        return Policy(optax.apply_updates(state.params, updates), opt_state, state.features)

    def observe(signals: Signals, state: Policy) -> Policy:
        return state._replace(features=look(signals).astype(state.features.dtype))

    return Bandit(init, choose, learn, -1.0, observe)


def features(signals: Signals) -> jax.Array:
    """Returns [3 K - 1]: progress, log losses [K], cosines with main [K - 1] and log norm ratios to main [K - 1].

    A cosine with a zero gradient is 0; a loss is read by its size, and everything is finite and within +-10.
    """
    if signals.losses is None or signals.gramian is None:
        raise AuxjaxError("the policy's features need the signals losses and gramian")
    squares = jnp.maximum(jnp.diagonal(signals.gramian), 0.0)
    norms = jnp.sqrt(squares)
    # The norms one by one: their product would overflow, or be 0, before they do.
    cosines = signals.gramian[0] / jnp.maximum(norms, TINY) / jnp.maximum(norms[0], TINY)
    ratios = jnp.log(norms + TINY) - jnp.log(norms[0] + TINY)
    progress = jnp.asarray(signals.progress, norms.dtype).reshape(1)
    seen = [progress, jnp.log(jnp.abs(signals.losses) + TINY), jnp.clip(cosines[1:], -1.0, 1.0), ratios[1:]]
    return jnp.clip(jnp.nan_to_num(jnp.concatenate(seen)), -FEATURE_LIMIT, FEATURE_LIMIT)


def policy(
    *,
    low: float = 0.0,
    high: float = 1.0,
    arms: int = 5,
    period_steps: int = 10,
    reward: str = "held_out",
    width: int = 16,
    learning_rate: float = 1e-2,
    entropy: float = 0.2,
) -> Weighting:
    """Draws the heads' common factor from pi(. | x), a small network of training's state x, every `period_steps`.

    x are the progress, log losses, cosines with main and log norm ratios (`features`); after a period one step of
    advantage actor-critic (`actor_critic`) on the rescaled fall of main's loss, r in [-1, 1]. The state holds the
    network, its Adam state, x, the arm and a reservoir of rewards. Williams 1992 (Machine Learning 8), section 4,
    REINFORCE with a baseline; Mnih et al. 2016, arXiv 1602.01783, section 4, advantage and entropy bonus.
    Deviations: each period is an episode of its own (no discounted return), Adam for RMSProp, one sample a step; the
    network's width, learning rate and entropy bonus are ours: on the tests' toy, whose features tell nothing, under
    Mnih's 0.01 half of the draws are of the arm that has become the best, under 0.2 0.98 of them. No peer.
    """
    bandit = actor_critic(
        arms=arms, width=width, learning_rate=learning_rate, entropy=entropy, size=lambda k: 3 * k - 1, look=features
    )
    weighting = controller(bandit, grid(low, high, arms), period_steps, reward)
    return weighting._replace(needs=weighting.needs | {"losses", "gramian"})


def _forward(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    kernels, biases = params["kernels"], params["biases"]
    hidden = jnp.tanh(x @ kernels["hidden"] + biases["hidden"])
    log_policy = jax.nn.log_softmax(hidden @ kernels["actor"] + biases["actor"])
    return log_policy, hidden @ kernels["critic"] + biases["critic"]


METHODS: dict[str, Method] = {
    "policy": Method(
        policy, "Williams 1992; Mnih et al. 2016, arXiv 1602.01783, section 4", frozenset({"main_one"}), "none"
    )
}
