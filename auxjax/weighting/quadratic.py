"""Solvers for the small convex problems behind Gramian methods: K <= 16, inside jit, for any positive semidefinite G.

All work on the cosines C_ij = G_ij / (n_i n_j) of the gradients with norms n, so that no ratio of norms costs accuracy.
They stop at 10 units of rounding of the terms that they compare: about 1e-6 in float32 and 1e-14 in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from auxjax.weighting.active_set import nearest_feasible, quotient

# Newton's method doubles an unknown that is too small at each step, and nears others quadratically.
MOST_STEPS = 100


class Units(NamedTuple):
    """The inner products [K, K] of K unit gradients, 0 for zero gradients, and the norms [K] that they had."""

    products: jax.Array
    norms: jax.Array


def units(gramian: jax.Array) -> Units:
    """Returns the cosines and the norms of the gradients with that Gramian [K, K]."""
    norms = jnp.sqrt(jnp.maximum(jnp.diag(gramian), 0.0))
    scaled = quotient(quotient(gramian, norms.reshape(-1, 1)), norms.reshape(1, -1))
    alone = jnp.diag((norms > 0).astype(gramian.dtype))
    return Units(jnp.where(jnp.eye(len(norms), dtype=bool), alone, jnp.clip(scaled, -1.0, 1.0)), norms)


def simplex_minimum(gramian: jax.Array) -> jax.Array:
    """Returns w [K] on the simplex with the least w'Gw: the weights of the shortest vector in the gradients' hull.

    Two gradients have the closed form. Zero gradients, if there are any, share all the weight equally. Where the
    gradients are linearly dependent w need not be the only one; the vector is.
    """
    size = len(gramian)
    if size == 1:
        return jnp.ones_like(gramian[0])
    if size == 2:
        apart = gramian[0, 0] + gramian[1, 1] - 2 * gramian[0, 1]
        share = jnp.clip(quotient(gramian[1, 1] - gramian[0, 1], apart), 0.0, 1.0)
        first = jnp.where(apart > 0, share, 0.5)
        return jnp.stack([first, 1 - first])
    products, norms = units(gramian)
    shortest = norms.min()
    ratios = quotient(shortest, norms)
    # One coordinate more, the shortest norm for all, changes no minimum and keeps 0 out of the hull. Its nearest point
    # is along the least d such that u_i . d >= r_i, as it has one inner product with all the vectors it is made of.
    lifted = products + jnp.outer(ratios, ratios)
    multipliers, _ = nearest_feasible(lifted, ratios, jnp.zeros_like(shortest))
    weights = jnp.where(shortest > 0, multipliers * ratios, (norms <= 0).astype(norms.dtype))
    return weights / weights.sum()


def box_minimum(gramian: jax.Array, lower: jax.Array) -> jax.Array:
    """Returns v [K] with the least v'Gv such that v >= lower >= 0.

    sum v_i g_i is then the point nearest to sum lower_i g_i that has no negative product with any gradient.
    """
    products = gramian @ lower
    multipliers, _ = nearest_feasible(gramian, -products, jnp.sqrt(jnp.maximum(lower @ products, 0.0)))
    return lower + multipliers


def towards_the_worst(gramian: jax.Array, radius: float) -> jax.Array:
    """Returns mu [K] >= 0 with which d = m + sum mu_i g_i has the greatest min_i g_i . d in a ball around the mean m.

    `radius` is that of the ball, in units of ||m||. mu = w / t, where w is the `simplex_minimum` of the gradients
    g_i + t m, and t the root of ||sum w_i g_i|| = t radius ||m||, found by false position (Illinois) in log t. Where
    there is no root, as the gradients balance each other out, t stays at the root of a unit of rounding: d is then the
    shortest that has no negative product with any gradient.
    """
    size = len(gramian)
    mean = gramian.sum(axis=1) / size
    square = jnp.maximum(mean.sum() / size, 0.0)
    reach = radius * jnp.sqrt(square)
    norms = jnp.sqrt(jnp.maximum(jnp.diag(gramian), 0.0))
    longest = norms.max()
    shortest = jnp.where(norms > 0, norms, longest).min()
    precision = float(jnp.finfo(gramian.dtype).eps)

    def at(log_length: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns mu, and how far ||sum w_i g_i|| is above the length, between -1 and 1."""
        shift = quotient(jnp.exp(log_length), reach)
        moved = gramian + shift * (mean.reshape(-1, 1) + mean.reshape(1, -1)) + shift**2 * square
        weights = simplex_minimum(moved)
        length = jnp.sqrt(jnp.maximum(weights @ gramian @ weights, 0.0))
        above = quotient(length - jnp.exp(log_length), length + jnp.exp(log_length))
        return quotient(weights, shift), above

    hull = simplex_minimum(gramian)
    least = jnp.maximum(jnp.sqrt(jnp.maximum(hull @ gramian @ hull, 0.0)), precision**0.5 * shortest)
    low, high = (jnp.log(jnp.where(longest > 0, end, 1.0)) for end in (least, longest))
    return _root(at, low, jnp.maximum(low, high), 10 * precision)


class _Bracket(NamedTuple):
    low: jax.Array
    high: jax.Array
    above: jax.Array
    below: jax.Array
    side: jax.Array
    value: jax.Array
    steps: jax.Array
    done: jax.Array


def _root(
    function: Callable[[jax.Array], tuple[jax.Array, jax.Array]], low: jax.Array, high: jax.Array, precision: float
) -> jax.Array:
    """Returns what `function` returns first where its second result, which falls from `low` to `high`, is 0."""
    value, above = function(low)
    nothing = jnp.zeros((), jnp.int32)
    below = function(high)[1]

    def step(at: _Bracket) -> _Bracket:
        middle = at.low - at.above * (at.high - at.low) / jnp.minimum(at.below - at.above, -precision)
        middle = jnp.clip(middle, at.low, at.high)
        value, height = function(middle)
        right = height > 0
        # The end that stays twice has its height halved, or it would stay for ever.
        above = jnp.where(right, height, jnp.where(at.side < 0, at.above / 2, at.above))
        below = jnp.where(right, jnp.where(at.side > 0, at.below / 2, at.below), height)
        low, high = jnp.where(right, middle, at.low), jnp.where(right, at.high, middle)
        done = (jnp.abs(height) <= precision) | (high - low <= precision)
        return _Bracket(low, high, above, below, jnp.where(right, 1, -1).astype(jnp.int32), value, at.steps + 1, done)

    done = (above <= precision) | (high - low <= precision)
    start = _Bracket(low, high, above, jnp.minimum(below, 0.0), nothing, value, nothing, done)
    return jax.lax.while_loop(lambda at: ~at.done & (at.steps < MOST_STEPS), step, start).value


def nash(gramian: jax.Array, preference: jax.Array) -> jax.Array:
    """Returns a [K] > 0 with G a = p / a, elementwise: the least of 1/2 a'Ga - sum_i p_i log a_i, p > 0.

    A zero gradient has the weight 0. Where the gradients balance each other out, which no finite `a` solves, the term
    (10 units of rounding)^2 (n_i a_i)^4 / (4 max p) in the objective keeps n_i a_i below sqrt(max p / 10 units).
    """
    products, norms = units(gramian)
    return quotient(_equilibrium(products, preference.astype(gramian.dtype), 1.0), norms)


def fair(gramian: jax.Array, alpha: float) -> jax.Array:
    """Returns w [K] > 0 with G w = w^(-1/alpha), elementwise, alpha > 0; alpha 1 is `nash` with p = 1.

    Zero gradients and gradients that balance each other out are treated as by `nash`.
    """
    products, norms = units(gramian)
    # With y = n w it reads C y = n^(1/alpha - 1) y^(-1/alpha); one factor for all keeps y near 1.
    longest = norms.max()
    relative = jnp.where(norms > 0, quotient(norms, longest), 1.0)
    found = _equilibrium(products, relative ** (1 / alpha - 1), 1 / alpha)
    power = alpha / (1 + alpha)
    common = jnp.where(longest > 0, jnp.where(longest > 0, longest, 1.0) ** ((1 / alpha - 1) * power), 1.0)
    return quotient(found * common, norms)


def _equilibrium(products: jax.Array, scale: jax.Array, power: float) -> jax.Array:
    """Returns y [K] > 0 with C y = q y^(-power) - cap, elementwise, by Newton's method.

    Without the cap the steps are those of the convex objective whose slope is C y - q y^(-power), each shortened to
    t = 1 / (1 + m f), f the largest relative fall of an entry and m = max(1, power): it falls all the way to t. With s
    the largest of the solutions for C = I, the cap is (10 units)^2 y^3 / s^2, and is felt where y nears
    s / sqrt(10 units), nowhere else.
    """
    size = len(scale)
    precision = 10 * float(jnp.finfo(scale.dtype).eps)
    matrix = products + jnp.diag((jnp.diag(products) <= 0).astype(scale.dtype))
    largest = (scale ** (1 / (1 + power))).max()

    def step(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        y, count, _ = carry
        target, cap = scale * y ** (1 - power), (precision * y * y / largest) ** 2
        missing = target - y * (matrix @ y) - cap
        # Scaled on both sides by the root of this diagonal, the matrix is at least the identity.
        root = jnp.sqrt(power * target + 3 * cap)
        inner = matrix * (y / root).reshape(size, 1) * (y / root).reshape(1, size)
        change = jnp.linalg.solve(inner + jnp.eye(size, dtype=y.dtype), missing / root) / root
        length = 1 / (1 + max(1.0, power) * jnp.maximum(-change.min(), 0.0))
        rounding = precision * (target + y * (jnp.abs(matrix) @ y))
        return y * (1 + length * change), count + 1, jnp.all(jnp.abs(missing) <= rounding)

    start = (scale / size) ** (1 / (1 + power))
    carry = (start, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
    return jax.lax.while_loop(lambda at: (at[1] < MOST_STEPS) & ~at[2], step, carry)[0]
