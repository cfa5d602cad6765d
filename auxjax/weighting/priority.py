"""Priority-constrained descent: main's gradient, moved as little as gives every auxiliary loss a share of progress."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from auxjax.weighting.active_set import nearest_feasible, quotient
from auxjax.weighting.asymmetric import gramian_in
from auxjax.weighting.protocol import Method, Signals, Update, Weighting


class Scales(NamedTuple):
    """The moving averages of the K squared gradient norms, before their bias is corrected, and of how many steps."""

    squared_norms: jax.Array
    steps: jax.Array


def pcd(fraction: float = 0.02, decay: float = 0.999, epsilon: float = 1e-8) -> Weighting:
    """Follows main's gradient as closely as an assured share of progress for every auxiliary loss allows.

    With s_k = (v_k + epsilon)^-1/2, v_k the moving average of ||g_k||^2 (its bias corrected), and h_k = s_k g_k:
    d' = argmin 1/2 ||d - h_0||^2 such that h_j . d >= fraction ||h_j||^2 for j >= 1; d = d' ||g_0|| / ||d'||.
    d' = h_0 + sum mu_j h_j with multipliers mu >= 0, so w_k is proportional to mu_k s_k, mu_0 = 1. Where the
    constraints exclude each other d = g_0; where d' = 0 so is d. The state holds the K moving averages and their count.

    It does not put main first: where g_1 is opposed to g_0, main's loss rises so that the auxiliary one may fall.

    arXiv 2606.29521, definition 4.1 and algorithm 1 (tau is `fraction`, beta `decay`). The dual active-set method of
    Goldfarb & Idnani (1983) solves it in the signals' own precision; TorchJD 0.18 does so in float64, and the authors'
    code tries every set of constraints.
    """

    def init(names: tuple[str, ...], trunk: Any) -> Scales:
        return Scales(jnp.zeros((len(names),)), jnp.zeros((), jnp.int32))

    def update(signals: Signals, state: Scales) -> tuple[Update, Scales]:
        gramian = gramian_in(signals)
        squares = jnp.diag(gramian)
        steps = state.steps + 1
        averages = decay * state.squared_norms + (1 - decay) * squares.astype(state.squared_norms.dtype)
        corrected = (averages / (1 - jnp.asarray(decay, averages.dtype) ** steps)).astype(gramian.dtype)
        scales = jnp.sqrt(quotient(jnp.ones_like(corrected), corrected + epsilon))
        ratio = quotient(scales, scales[0])
        return Update(_weights(gramian, scales, fraction) * ratio), Scales(averages, steps)

    return Weighting(init, update, frozenset({"gramian"}))


def _weights(gramian: jax.Array, scales: jax.Array, fraction: float) -> jax.Array:
    """Returns the K multipliers, main's 1, times what gives their direction the length of main's gradient."""
    size = gramian.shape[0]
    scaled = gramian * scales.reshape(size, 1) * scales.reshape(1, size)
    multipliers = jnp.ones_like(scales)
    if size > 1:
        needed = fraction * jnp.diag(scaled)[1:] - scaled[0, 1:]
        found, feasible = nearest_feasible(scaled[1:, 1:], needed, jnp.sqrt(scaled[0, 0]))
        multipliers = jnp.concatenate([multipliers[:1], jnp.where(feasible, found, 0.0)])
    main = scaled[0, 0]
    multipliers = jnp.where(main > 0, multipliers, jnp.zeros_like(multipliers).at[0].set(1.0))
    length = multipliers @ scaled @ multipliers
    # Below this the direction is what rounding leaves of a sum that vanishes.
    rounding = 10 * jnp.finfo(scaled.dtype).eps * (multipliers @ jnp.sqrt(jnp.diag(scaled))) ** 2
    factor = jnp.where(length > rounding, jnp.sqrt(quotient(main, length)), 0.0)
    return multipliers * jnp.where(main > 0, factor, 1.0)


METHODS: dict[str, Method] = {
    "pcd": Method(
        pcd,
        "arXiv 2606.29521, definition 4.1 and algorithm 1",
        frozenset(),
        "TorchJD 0.18, the authors' (both in float64)",
    ),
}
