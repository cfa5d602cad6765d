"""Weightings made of weightings: in a row, one after another, averaged, and held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from auxjax.errors import AuxjaxError
from auxjax.weighting.protocol import HeldOut, Rest, Signals, Update, Weighting, combine


class Chained(NamedTuple):
    """The state of each weighting in the row, and the factors [K] that it saw the losses under."""

    states: tuple[Any, ...]
    factors: tuple[jax.Array, ...]


class Switched(NamedTuple):
    """The states of both weightings, and whether this step is the first one's (bool)."""

    first: Any
    then: Any
    is_first: jax.Array


class Wrapped(NamedTuple):
    """A weighting's state, weights [K] that it gave or that were made of them, and their age in steps (-1: none)."""

    inner: Any
    weights: jax.Array
    age: jax.Array


def chain(*weightings: Weighting) -> Weighting:
    """Returns the weightings in a row: each sees the losses times the weights of all before it, and weights multiply.

    What is scaled so is the losses (before and after the step), their Gramian, gradients and Hessian; main's held-out
    loss is not. The first draws from the step's key, each later one from a key folded from it. Only the last may give a
    direction, since no later weight could act on it: an earlier one that does is an AuxjaxError. The state holds theirs
    and the factors that each saw.
    """
    if not weightings:
        raise AuxjaxError("chain needs at least one weighting")

    def init(names: tuple[str, ...], trunk: Any) -> Chained:
        ones = tuple(jnp.ones(len(names)) for _ in weightings)
        return Chained(tuple(w.init(names, trunk) for w in weightings), ones)

    def update(signals: Signals, state: Chained) -> tuple[Update, Chained]:
        factor, direction = jnp.ones_like(state.factors[0]), None
        states, factors = [], []
        for index, (weighting, inner) in enumerate(zip(weightings, state.states, strict=True)):
            if direction is not None:
                raise AuxjaxError(f"weighting {index - 1} of a chain gives a direction, not weights: put it last")
            factors.append(factor.astype(state.factors[index].dtype))
            decided, inner = weighting.update(_under(signals, factor, index), inner)
            factor, direction = factor * each(decided.weights, factor), decided.direction
            states.append(inner)
        return Update(factor, direction), Chained(tuple(states), tuple(factors))

    def finish(signals: Signals, state: Chained) -> Chained:
        parts = enumerate(zip(weightings, state.states, state.factors, strict=True))
        states = (_finished(w, _under(signals, factor, index), inner) for index, (w, inner, factor) in parts)
        return Chained(tuple(states), state.factors)

    return _composed(init, update, finish, *weightings)


def warm_up(first: Weighting, then: Weighting, steps: int) -> Weighting:
    """Returns `first` before step `steps` and `then` from it on; the state of the one that is not used does not move.

    Where only one of them gives a direction, the other's is the sum of its weights times the gradients. The state holds
    theirs, and which of them this step was.
    """

    def init(names: tuple[str, ...], trunk: Any) -> Switched:
        return Switched(first.init(names, trunk), then.init(names, trunk), jnp.asarray(True))

    def update(signals: Signals, state: Switched) -> tuple[Update, Switched]:
        form = _form(signals, (first, state.first), (then, state.then))

        def use_first() -> tuple[Update, Any, Any]:
            decided, inner = first.update(signals, state.first)
            return _in_form(decided, form, signals), inner, state.then

        def use_then() -> tuple[Update, Any, Any]:
            decided, inner = then.update(signals, state.then)
            return _in_form(decided, form, signals), state.first, inner

        is_first = signals.step < steps
        decided, first_state, then_state = jax.lax.cond(is_first, use_first, use_then)
        return decided, Switched(first_state, then_state, is_first)

    def finish(signals: Signals, state: Switched) -> Switched:
        first_state, then_state = jax.lax.cond(
            state.is_first,
            lambda: (_finished(first, signals, state.first), state.then),
            lambda: (state.first, _finished(then, signals, state.then)),
        )
        return Switched(first_state, then_state, state.is_first)

    return _composed(init, update, finish, first, then)


def ema(weighting: Weighting, decay: float = 0.9) -> Weighting:
    """Returns the weights' moving average: a_t = decay a_(t-1) + (1 - decay) w_t, started at a_1 = w_1, undebiased.

    Zhou et al. 2022, On the Convergence of Stochastic Multi-Objective Gradient Manipulation and Beyond (NeurIPS),
    CR-MOGM, with a constant decay; TorchJD agrees. A direction cannot be averaged by its weights: an AuxjaxError. The
    state holds the weighting's and the average.
    """
    if not 0 <= decay < 1:
        raise AuxjaxError(f"decay of ema must be at least 0 and below 1, not {decay!r}")

    def update(signals: Signals, state: Wrapped) -> tuple[Update, Wrapped]:
        decided, inner = weighting.update(signals, state.inner)
        weights = _weights_only(decided, "ema", state.weights)
        average = jnp.where(state.age < 0, weights, decay * state.weights + (1 - decay) * weights)
        return Update(average), Wrapped(inner, average, jnp.zeros_like(state.age))

    return wrapping(weighting, update)


def every(weighting: Weighting, steps: int) -> Weighting:
    """Returns the weighting computed anew at steps divisible by `steps` and when first used, and held in between.

    Its state moves only when it is computed, and the step then costs what a plain one does (`Rest`). A direction
    belongs to the gradients of its own step and is not held: an AuxjaxError. The state holds the weighting's, the
    weights, and their age.
    """
    if steps < 1:
        raise AuxjaxError(f"steps of every must be at least 1, not {steps!r}")

    def update(signals: Signals, state: Wrapped) -> tuple[Update, Wrapped]:
        def compute() -> Wrapped:
            decided, inner = weighting.update(signals, state.inner)
            return Wrapped(inner, _weights_only(decided, "every", state.weights), jnp.zeros_like(state.age))

        new = jax.lax.cond(due(signals, state), compute, lambda: state._replace(age=state.age + 1))
        return Update(new.weights), new

    def due(signals: Signals, state: Wrapped) -> jax.Array:
        return (signals.step % steps == 0) | (state.age < 0)

    def hold(signals: Signals, state: Wrapped) -> tuple[Update, Wrapped]:
        return Update(state.weights), state._replace(age=state.age + 1)

    return wrapping(weighting, update)._replace(rest=Rest(due, hold))


def _composed(init: Callable[..., Any], update: Callable[..., Any], finish: Any, *parts: Weighting) -> Weighting:
    needs: frozenset[str] = frozenset().union(*(part.needs for part in parts))
    return Weighting(init, update, needs, finish if any(part.finish for part in parts) else None)


def wrapping(weighting: Weighting, update: Callable[[Signals, Wrapped], tuple[Update, Wrapped]]) -> Weighting:
    """Returns the weighting with `update` around its own and `Wrapped` around its state."""

    def init(names: tuple[str, ...], trunk: Any) -> Wrapped:
        return Wrapped(weighting.init(names, trunk), jnp.ones(len(names)), jnp.asarray(-1, jnp.int32))

    def finish(signals: Signals, state: Wrapped) -> Wrapped:
        # What did not see the losses before the step has nothing to compare those after it with.
        inner = jax.lax.cond(state.age == 0, lambda: _finished(weighting, signals, state.inner), lambda: state.inner)
        return state._replace(inner=inner)

    return _composed(init, update, finish, weighting)


def _finished(weighting: Weighting, signals: Signals, state: Any) -> Any:
    return weighting.finish(signals, state) if weighting.finish else state


def gives_direction(weighting: Weighting) -> bool:
    """Returns whether the weighting decides a direction, and not weights alone; nothing is computed."""

    def decide() -> Update:
        zero, ones = jnp.zeros(()), jnp.ones(2)
        tree = {"x": jnp.ones(2)}
        held_out = HeldOut(lambda direction: (zero, tree), lambda weights, vector: vector, zero)
        signals = Signals(
            jnp.zeros((), jnp.int32), zero, jax.random.key(0), ones, jnp.eye(2), (tree, tree), held_out, ones
        )
        return weighting.update(signals, weighting.init(("main", "aux"), tree))[0]

    return jax.eval_shape(decide).direction is not None


def each(weights: jax.Array, like: jax.Array) -> jax.Array:
    """Returns the weights as K of them."""
    # A weighting that does not know K gives a scalar for all.
    return jnp.broadcast_to(weights, like.shape)


def _weights_only(decided: Update, name: str, like: jax.Array) -> jax.Array:
    if decided.direction is not None:
        raise AuxjaxError(f"{name} takes weights, and this weighting gives a direction: leave {name} out")
    return each(decided.weights, like).astype(like.dtype)


def _under(signals: Signals, factor: jax.Array, index: int) -> Signals:
    """Returns the signals of the losses times `factor` [K], with a key of their own from `index` 1 on."""

    def times(values: jax.Array | None, by: jax.Array) -> jax.Array | None:
        return None if values is None else values * by.astype(values.dtype)

    gradients, held_out = signals.gradients, signals.held_out
    if gradients is not None:
        gradients = tuple(combine(f[None], (g,)) for f, g in zip(factor, gradients, strict=True))
    if held_out is not None:
        hessian = held_out.hessian
        held_out = held_out._replace(hessian=lambda w, v: hessian(w * factor.astype(w.dtype), v))
    return signals._replace(
        key=signals.key if signals.key is None or not index else jax.random.fold_in(signals.key, index),
        losses=times(signals.losses, factor),
        losses_after=times(signals.losses_after, factor),
        gramian=times(signals.gramian, jnp.outer(factor, factor)),
        gradients=gradients,
        held_out=held_out,
    )


def _form(signals: Signals, *parts: tuple[Weighting, Any]) -> tuple[Any, bool]:
    """Returns the shape and dtype that fit the weights of all, and whether any of them gives a direction."""
    updates = [jax.eval_shape(lambda w=w, s=s: w.update(signals, s)[0]) for w, s in parts]
    shape = jnp.broadcast_shapes(*(update.weights.shape for update in updates))
    dtype = jnp.result_type(*(update.weights.dtype for update in updates))
    return jax.ShapeDtypeStruct(shape, dtype), any(update.direction is not None for update in updates)


def _in_form(decided: Update, form: tuple[Any, bool], signals: Signals) -> Update:
    weights = jnp.broadcast_to(decided.weights, form[0].shape).astype(form[0].dtype)
    if not form[1]:
        return Update(weights)
    if signals.gradients is None:
        raise AuxjaxError("warm_up needs gradients where one of its weightings gives a direction and the other weights")
    direction = combine(weights, signals.gradients) if decided.direction is None else decided.direction
    return Update(weights, jax.tree.map(lambda d, g: d.astype(g.dtype), direction, signals.gradients[0]))
