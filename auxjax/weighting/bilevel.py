"""Methods that learn weights from main's held-out loss V, by its slope through the step that they lead to.

theta are the trunk's parameters, eta the network's learning rate, and theta' = theta - eta d what a step of SGD would
make of them: the optimizer's moments and weight decay are left out. Each method says what it adds to a step's cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from auxjax.errors import AuxjaxError
from auxjax.weighting.asymmetric import gramian_in
from auxjax.weighting.directions import gradients_in
from auxjax.weighting.protocol import HeldOut, Method, Signals, Update, Weighting, combine, inner, no_state
from auxjax.weighting.quadratic import nash
from auxjax.weighting.scalarized import unless_alone

# Preferences stay above this before they are scaled to sum to K.
SMALLEST_PREFERENCE = 1e-4
# The authors cut the slope by the preferences at this length.
LONGEST_SLOPE = 1.0
# ForkMerge's grid.
FORKS = (0.2, 0.4, 0.6, 0.8, 1.0)


class Learned(NamedTuple):
    """What is learned (weights [K], preferences [K], or a network's arrays), and its optimizer's state."""

    values: Any
    optimizer: Any


def auto_lambda(initial: float = 0.1, learning_rate: float = 1e-4) -> Weighting:
    """Learns the auxiliary weights by their slope on main's held-out loss after one virtual step.

    theta' = theta - eta sum_k w_k g_k, dV(theta')/dw_i = -eta g_i . grad V(theta'), exactly; w_i <- max(0, one step of
    Adam) before the step uses it; w_0 = 1 and w_i = `initial` at first. The state holds w and Adam's moments. It adds
    one held-out gradient.

    Liu et al. 2022, arXiv 2202.03091, equations 2 to 6; defaults and Adam are those of the authors' code (the paper's
    rates are 3e-5 to 3e-4). Deviations: the slope is exact, where the authors take finite differences of a Hessian that
    is not there; main's weight is fixed at 1, as all K in common are a learning rate; weights stop at 0, so that a
    harmful loss is dropped and not climbed; momentum and weight decay are left out of theta'.
    """
    if not initial >= 0:
        raise AuxjaxError(f"initial of auto_lambda must be at least 0, not {initial!r}")
    optimizer = optax.adam(positive_rate("auto_lambda", learning_rate))

    def init(names: tuple[str, ...], trunk: Any) -> Learned:
        weights = jnp.full(len(names), initial).at[0].set(1.0)
        return Learned(weights, optimizer.init(weights))

    def update(signals: Signals, state: Learned) -> tuple[Update, Learned]:
        gradients, held_out = gradients_in(signals), held_out_in(signals)
        slope = step_slope(held_out, state.values, gradients).astype(state.values.dtype)
        change, moments = optimizer.update(jnp.where(jnp.isfinite(slope), slope, 0.0), state.optimizer)
        moved = jnp.maximum(state.values + change, 0.0).at[0].set(1.0)
        return Update(moved.astype(_wide(gradients))), Learned(moved, moments)

    return Weighting(init, update, frozenset({"held_out", "gradients"}))


def auxi_nash(learning_rate: float = 5e-3) -> Weighting:
    """Nash bargaining between losses whose bargaining power is learned from main's held-out loss.

    G w = p / w, elementwise, with preferences p that sum to K and start at 1: every loss falls, w_k g_k . d = p_k, and
    ||d||^2 = K. Then p moves against dV(theta')/dp = (dw/dp)' dV/dw, dV/dw_k = -eta g_k . grad V(theta') and
    dw/dp = (G + diag(p / w^2))^-1 diag(1 / w), by SGD with momentum 0.9 on that slope cut at the length 1;
    p <- max(p, 1e-4), p <- K p / sum p. The state holds p and the momentum. It adds one held-out gradient.

    Shamsian et al. 2023, arXiv 2301.13501, sections 3 and 4; rate, momentum, cut and bounds are those of the authors'
    code. Deviations: p moves at every step, where theirs does at every 25th; dV/dw is that of one step, where they take
    a Neumann series; G w = p / w is solved by Newton's method (as in `nash_mtl`), and d is not shortened to length 1.
    Where its matrix is singular, the slope is left out.
    """
    optimizer = optax.sgd(positive_rate("auxi_nash", learning_rate), momentum=0.9)

    def init(names: tuple[str, ...], trunk: Any) -> Learned:
        ones = jnp.ones(len(names))
        return Learned(ones, optimizer.init(ones))

    def update(signals: Signals, state: Learned) -> tuple[Update, Learned]:
        gramian, gradients = gramian_in(signals), gradients_in(signals)
        preference = state.values.astype(gramian.dtype)
        weights = nash(gramian, preference)
        slope = preference_slope(gramian, preference, weights, step_slope(held_out_in(signals), weights, gradients))
        change, momentum = optimizer.update(cut(slope, LONGEST_SLOPE).astype(state.values.dtype), state.optimizer)
        moved = jnp.maximum(state.values + change, SMALLEST_PREFERENCE)
        return Update(unless_alone(weights)), Learned(moved * (len(moved) / moved.sum()), momentum)

    return Weighting(init, update, frozenset({"held_out", "gramian", "gradients"}))


def preference_slope(gramian: jax.Array, preference: jax.Array, weights: jax.Array, slope: jax.Array) -> jax.Array:
    """Returns dV/dp from dV/dw = `slope` [K], where G w = p / w; 0 for a loss of weight 0."""
    # Scaled by w on both sides: (diag(w) G diag(w) + diag(p)) y = w * slope has no ratio of gradients' lengths in it.
    bargained = gramian * weights.reshape(-1, 1) * weights.reshape(1, -1)
    return jnp.linalg.solve(bargained + jnp.diag(preference), weights * slope)


def fork_merge() -> Weighting:
    """Tries how much of the auxiliary gradients serves main's held-out loss, and takes the best.

    Candidates d = g_0, g_0 + c sum_{i>=1} g_i, and g_0 + c g_i for each i alone, c in {0.2, 0.4, 0.6, 0.8, 1}; the one
    with the least V(theta - eta d) is followed, the first of equals. V never rises above what main alone would leave.
    No state. It adds 1 + 5 K held-out forward passes, one after another (1 + 5 for one head).

    Jiang et al. 2023 (ForkMerge), arXiv 2301.12618, algorithm 1, as forks of one step. Deviations: the paper lets forks
    train for epochs before it merges their parameters, which for one step of SGD is a search over d; of its searches
    over a grid for each head, the joint one and those of single heads are made.
    """

    def update(signals: Signals, state: Any) -> tuple[Update, Any]:
        gradients, held_out = gradients_in(signals), held_out_in(signals)
        rows = jnp.asarray(candidates(len(gradients)), _wide(gradients))
        losses = jax.lax.map(lambda row: held_out.gradient(combine(row, gradients))[0], rows)
        return Update(rows[jnp.argmin(jnp.where(jnp.isnan(losses), jnp.inf, losses))]), state

    return Weighting(no_state, update, frozenset({"held_out", "gradients"}))


def candidates(count: int) -> list[list[float]]:
    """Returns the weights [C, K] that `fork_merge` chooses from, main alone first."""
    each = [[float(i == j) for i in range(1, count)] for j in range(1, count)]
    sets = [*([[1.0] * (count - 1)] if count > 2 else []), *each]
    return [[1.0] + [0.0] * (count - 1), *([1.0, *(c * x for x in heads)] for c in FORKS for heads in sets)]


def held_out_in(signals: Signals) -> HeldOut:
    """Returns main's held-out loss, which the method's `needs` promise."""
    assert signals.held_out is not None
    return signals.held_out


def step_slope(held_out: HeldOut, weights: jax.Array, gradients: Sequence[Any]) -> jax.Array:
    """Returns dV(theta')/dw [K] = -eta g_k . grad V(theta'), theta' = theta - eta sum_k w_k g_k."""
    slope = held_out.gradient(combine(weights, gradients))[1]
    along = products(gradients, slope)
    return -held_out.learning_rate.astype(along.dtype) * along


def products(gradients: Sequence[Any], vector: Any) -> jax.Array:
    """Returns the inner products [K] of the gradients with one tree."""
    return jnp.stack([inner(g, vector) for g in gradients])


def cut(slope: Any, longest: float) -> Any:
    """Returns the tree made no longer than `longest`, and zeros where it is not finite."""
    length = optax.tree.norm(slope)
    factor = jnp.minimum(1.0, longest / jnp.maximum(length, longest))
    return jax.tree.map(lambda s: jnp.where(jnp.isfinite(length), s * factor.astype(s.dtype), 0.0), slope)


def _wide(gradients: Sequence[Any]) -> Any:
    return jnp.result_type(jnp.float32, *jax.tree.leaves(gradients[0]))


def positive_rate(name: str, learning_rate: float) -> float:
    """Returns the learning rate of the method `name`, or raises AuxjaxError where it is not above 0."""
    if not learning_rate > 0:
        raise AuxjaxError(f"learning_rate of {name} must be above 0, not {learning_rate!r}")
    return learning_rate


METHODS: dict[str, Method] = {
    "auto_lambda": Method(
        auto_lambda,
        "Liu et al. 2022, arXiv 2202.03091, section 3",
        frozenset({"main_one", "heads_symmetric"}),
        "the authors' (lorenmt/auto-lambda; finite differences)",
    ),
    "auxi_nash": Method(
        auxi_nash,
        "Shamsian et al. 2023, arXiv 2301.13501, section 4",
        frozenset({"main_first", "all_descend", "scale_invariant", "heads_symmetric"}),
        "the authors' (AvivSham/auxinash)",
    ),
    "fork_merge": Method(
        fork_merge,
        "Jiang et al. 2023, arXiv 2301.12618, algorithm 1",
        frozenset({"main_one"}),
        "the authors' (thuml/ForkMerge; forks of epochs)",
        "5 K more of those",
    ),
}
