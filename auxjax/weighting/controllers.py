"""Controllers draw one factor for all heads, train with it for a period, and learn from the fall of main's loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from auxjax.errors import AuxjaxError, unknown
from auxjax.weighting.protocol import Signals, Update, Weighting

# The fall of main's loss over a period, and the signals that it takes:
# held_out, training: the loss at the period's start less that at its end, on held-out or on training batches;
# predicted: the sum over its steps of g_0 . sum_k w_k g_k, the fall per unit of learning rate to first order;
# prediction_gain: the sum over its steps of the fall on the step's own batch (Graves et al. 2017, arXiv 1704.03003).
REWARDS = {
    "held_out": frozenset({"held_out"}),
    "training": frozenset({"losses"}),
    "predicted": frozenset({"gramian"}),
    "prediction_gain": frozenset({"losses", "losses_after"}),
}
RESERVOIR_SIZE = 256


class Bandit(NamedTuple):
    """`init(losses) -> state`, `choose(key, state) -> arm`, `learn(state, arm, reward) -> state`, apart from training.

    Arms are int32 from 0, rewards lie in [`lowest`, 1], and `losses` is K. A bandit with a context looks at it in
    `observe(signals, state) -> state`, which runs before `choose`.
    """

    init: Callable[[int], Any]
    choose: Callable[[jax.Array, Any], jax.Array]
    learn: Callable[[Any, jax.Array, jax.Array], Any]
    lowest: float = 0.0
    observe: Callable[[Signals, Any], Any] = lambda signals, state: state


class Reservoir(NamedTuple):
    """A uniform sample of all falls seen so far: values [RESERVOIR_SIZE], and how many falls there were."""

    values: jax.Array
    falls: jax.Array


class Controlled(NamedTuple):
    """A controller's state: the bandit's, its arm and the weights [K] of it, what the next fall starts from, and age.

    `level` is main's loss at the start of the period, or the fall summed up so far; `age` counts steps.
    """

    bandit: Any
    arm: jax.Array
    weights: jax.Array
    level: jax.Array
    age: jax.Array
    reservoir: Reservoir


def controller(bandit: Bandit, factors: tuple[float, ...], period_steps: int, reward: str) -> Weighting:
    """Returns the weighting [1, a, ..., a] with a = factors[arm], a new arm every `period_steps` steps.

    After each period the bandit learns the fall of main's loss (`reward`, a key of REWARDS), rescaled by `rescaled`.
    Raises AuxjaxError for a reward that does not exist or a period below one step.
    """
    if reward not in REWARDS:
        raise unknown("reward", str(reward), REWARDS)
    if period_steps < 1:
        raise AuxjaxError(f"period_steps must be at least 1, not {period_steps}")

    def init(names: tuple[str, ...], trunk: Any) -> Controlled:
        zero, none = jnp.zeros(()), jnp.zeros((), jnp.int32)
        reservoir = Reservoir(jnp.zeros(RESERVOIR_SIZE), none)
        return Controlled(bandit.init(len(names)), none, jnp.ones(len(names)), zero, none, reservoir)

    def turn(signals: Signals, state: Controlled) -> Controlled:
        choice_key, reservoir_key = jax.random.split(_given(signals.key, "a key"))
        level = _start(signals, reward).astype(state.level.dtype)
        reservoir = remember(reservoir_key, state.reservoir, state.level - level)
        learned = bandit.learn(state.bandit, state.arm, rescaled(reservoir, state.level - level, bandit.lowest))
        # The first period has nothing behind it.
        old, new = (state.bandit, state.reservoir), (learned, reservoir)
        learned, reservoir = jax.tree.map(lambda x, y: jnp.where(state.age == 0, x, y), old, new)
        learned = bandit.observe(signals, learned)
        arm = bandit.choose(choice_key, learned).astype(jnp.int32)
        heads = jnp.arange(len(state.weights)) > 0
        weights = jnp.where(heads, jnp.asarray(factors, state.weights.dtype)[arm], 1.0)
        return Controlled(learned, arm, weights, level, state.age, reservoir)

    def update(signals: Signals, state: Controlled) -> tuple[Update, Controlled]:
        due = state.age % period_steps == 0
        state = jax.lax.cond(due, lambda s: turn(signals, s), lambda s: s, state)
        level = state.level + _step_fall(signals, state.weights, reward)
        return Update(state.weights), state._replace(level=level.astype(state.level.dtype), age=state.age + 1)

    def finish(signals: Signals, state: Controlled) -> Controlled:
        after = _given(signals.losses_after, "losses_after")[0]
        return state._replace(level=(state.level - after).astype(state.level.dtype))

    return Weighting(init, update, REWARDS[reward], finish if reward == "prediction_gain" else None)


def grid(low: float, high: float, arms: int) -> tuple[float, ...]:
    """Returns `arms` evenly spaced factors from `low` to `high`; raises AuxjaxError where that is no choice."""
    if arms < 2 or not low < high:
        raise AuxjaxError(f"a controller needs arms >= 2 and low < high, not arms={arms}, low={low}, high={high}")
    return tuple(low + (high - low) * arm / (arms - 1) for arm in range(arms))


def remember(key: jax.Array, reservoir: Reservoir, fall: jax.Array) -> Reservoir:
    """Returns the reservoir with `fall` in it, or not, so that each finite fall so far is as likely to be there."""
    size = len(reservoir.values)
    drawn = jax.random.randint(key, (), 0, jnp.maximum(reservoir.falls + 1, size))
    place = jnp.where(reservoir.falls < size, reservoir.falls, drawn)
    finite = jnp.isfinite(fall)
    here = (jnp.arange(size) == place) & finite
    return Reservoir(jnp.where(here, fall, reservoir.values), reservoir.falls + finite.astype(jnp.int32))


def rescaled(reservoir: Reservoir, fall: jax.Array, lowest: float) -> jax.Array:
    """Returns the reward in [lowest, 1]: linear between the reservoir's 20th and 80th percentile, clipped outside.

    Where both are equal the reward is in the middle; a fall that is not finite is worth `lowest`. Graves et al. 2017,
    arXiv 1704.03003, "Reward Scaling", where lowest is -1.
    """
    filled = jnp.minimum(reservoir.falls, len(reservoir.values))
    ordered = jnp.sort(jnp.where(jnp.arange(len(reservoir.values)) < filled, reservoir.values, jnp.inf))
    bottom, top = (_quantile(ordered, filled, q) for q in (0.2, 0.8))
    between = jnp.clip((fall - bottom) / jnp.where(top > bottom, top - bottom, 1.0), 0.0, 1.0)
    share = jnp.where(top > bottom, between, 0.5)
    return jnp.where(jnp.isfinite(fall), lowest + (1.0 - lowest) * share, lowest)


def _quantile(ordered: jax.Array, filled: jax.Array, q: float) -> jax.Array:
    place = q * jnp.maximum(filled - 1, 0)
    below = jnp.floor(place).astype(jnp.int32)
    above = jnp.ceil(place).astype(jnp.int32)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _start(signals: Signals, reward: str) -> jax.Array:
    """Returns what `level` is at the start of a period."""
    if reward == "held_out":
        return _given(signals.held_out, "held_out").gradient(None)[0]
    if reward == "training":
        return _given(signals.losses, "losses")[0]
    return jnp.zeros(())


def _step_fall(signals: Signals, weights: jax.Array, reward: str) -> jax.Array:
    """Returns what a step adds to `level` before its update; of a prediction gain `finish` takes the rest off."""
    if reward == "predicted":
        row = _given(signals.gramian, "gramian")[0]
        return jnp.dot(row, weights.astype(row.dtype))
    return _given(signals.losses, "losses")[0] if reward == "prediction_gain" else jnp.zeros(())


def _given(value: Any, name: str) -> Any:
    if value is None:
        raise AuxjaxError(f"the weighting's signals lack {name}: pass it in Signals")
    return value
