"""A dual active-set solver for the small quadratic programs of a few gradients, from their Gramian alone."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class _ActiveSet(NamedTuple):
    multipliers: jax.Array
    active: jax.Array
    adding: jax.Array  # the violated constraint that is being added; -1 while none is
    exchanges: jax.Array
    done: jax.Array
    feasible: jax.Array


def nearest_feasible(gramian: jax.Array, needed: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (mu [m], feasible) of argmin 1/2 ||d - g||^2 such that a_j . d >= b_j: d = g + sum mu_j a_j, mu >= 0.

    `gramian` [m, m] is that of the vectors a_j, `needed` [m] is b_j - a_j . g, and `length` is ||g||, against which
    rounding is judged. Where `feasible` is False no d satisfies all constraints.

    Goldfarb & Idnani 1983, from inner products alone and scaled to unit vectors. A constraint counts as met within 10
    units of rounding of its own terms, and a vector as dependent on others where what they leave of its square is under
    1e-9, or 10 units of rounding of its terms if that is more. At most 10 m constraints are added and dropped; where
    that is not enough, which exact arithmetic excludes, `feasible` is False too.
    """
    size = gramian.shape[0]
    inverse = jnp.sqrt(quotient(jnp.ones_like(needed), jnp.diag(gramian)))
    unit = gramian * inverse.reshape(size, 1) * inverse.reshape(1, size)
    bounds = needed * inverse
    start = _ActiveSet(
        multipliers=jnp.zeros_like(bounds),
        active=jnp.zeros((size,), bool),
        adding=jnp.full((), -1, jnp.int32),
        exchanges=jnp.zeros((), jnp.int32),
        done=jnp.zeros((), bool),
        feasible=jnp.ones((), bool),
    )
    final = jax.lax.while_loop(
        lambda at: ~at.done & (at.exchanges < 10 * size), lambda at: _exchange(at, unit, bounds, length), start
    )
    return jnp.maximum(final.multipliers, 0.0) * inverse, final.feasible & final.done


def _exchange(at: _ActiveSet, unit: jax.Array, bounds: jax.Array, length: jax.Array) -> _ActiveSet:
    """Returns the active set after one constraint has been added to it, or one dropped on the way."""
    precision = 10 * float(jnp.finfo(unit.dtype).eps)
    slack = unit @ at.multipliers - bounds
    allowed = precision * (length + jnp.abs(bounds) + jnp.abs(unit) @ at.multipliers)
    violation = jnp.where(at.active, 0.0, slack + allowed)
    chosen = jnp.where(at.adding < 0, jnp.argmin(violation).astype(jnp.int32), at.adding)
    done = (at.adding < 0) & (violation[chosen] >= 0)

    # mu moves by +t at the chosen constraint and by -t r at the active ones, d by t (a_chosen - sum r_j a_j).
    both = at.active.reshape(-1, 1) & at.active.reshape(1, -1)
    column = jnp.where(at.active, unit[:, chosen], 0.0)
    rates = _solve(jnp.where(both, unit, jnp.eye(len(bounds), dtype=unit.dtype)), column)
    left = unit[chosen, chosen] - column @ rates
    ratios = jnp.where(at.active & (rates > 0), at.multipliers / jnp.where(rates > 0, rates, 1.0), jnp.inf)
    blocking = jnp.argmin(ratios)
    independent = left > jnp.maximum(1e-9, precision * (1 + jnp.abs(rates).sum()) ** 2)
    full = jnp.where(independent, -slack[chosen] / jnp.where(independent, left, 1.0), jnp.inf)
    length_of_step = jnp.minimum(full, ratios[blocking])
    feasible = done | jnp.isfinite(length_of_step)

    step = jnp.where(done | ~feasible, 0.0, length_of_step)
    moved = (at.multipliers - step * rates).at[chosen].add(step)
    added = full <= ratios[blocking]
    dropped = moved.at[blocking].set(0.0)
    still = done | ~feasible
    active = jnp.where(added, at.active.at[chosen].set(True), at.active.at[blocking].set(False))
    return _ActiveSet(
        multipliers=jnp.where(still, at.multipliers, jnp.where(added, moved, dropped)),
        active=jnp.where(still, at.active, active),
        adding=jnp.where(still | added, -1, chosen),
        exchanges=at.exchanges + 1,
        done=still,
        feasible=feasible,
    )


def _solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """Returns x of matrix x = right for a positive definite matrix [m, m], which needs no pivots, by elimination."""

    def eliminate(k: int, rows: jax.Array) -> jax.Array:
        pivot = rows[k] / rows[k, k]
        return (rows - rows[:, k].reshape(-1, 1) * pivot.reshape(1, -1)).at[k].set(pivot)

    rows = jnp.concatenate([matrix, right.reshape(-1, 1)], axis=1)
    return jax.lax.fori_loop(0, len(right), eliminate, rows)[:, -1]


def quotient(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns a / b, and 0 where b is not positive."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0.0)
