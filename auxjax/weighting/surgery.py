"""Gradient surgery: each gradient is turned away from those that it is in conflict with, one after another.

C is the Gramian of the unit gradients g_k / n_k. What becomes of a gradient is a row of coefficients on the unit
gradients, so that all of it follows from C. The orders are drawn from the step's key.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from auxjax.errors import AuxjaxError
from auxjax.weighting.active_set import quotient
from auxjax.weighting.asymmetric import LARGEST_TARGET, gramian_in
from auxjax.weighting.protocol import Method, Signals, Update, Weighting, no_state
from auxjax.weighting.quadratic import units


def pcgrad() -> Weighting:
    """Projecting conflicting gradients: what opposes another gradient is removed from each, in random order.

    g_i' <- g_i' - min(0, g_i' . g_j) / n_j^2 g_j for all j != i in an order of i's own, starting at g_i; d = sum g_i'.
    So w = 1 where nothing is in conflict. No loss of two rises, to first order; of more, one may. No state.

    Yu et al. 2020, arXiv 2001.06782, algorithm 1. LibMTL and TorchJD agree.
    """

    def update(signals: Signals, state: Any) -> tuple[Update, Any]:
        gramian = gramian_in(signals)
        return Update(projected(gramian, orders(signals, len(gramian)))), state

    return Weighting(no_state, update, frozenset({"gramian"}))


def projected(gramian: jax.Array, order: jax.Array) -> jax.Array:
    """Returns PCGrad's weights [K], gradient i meeting the others in the order order[i] of order [K, K]."""
    products, norms = units(gramian)

    def one(index: jax.Array, own_order: jax.Array) -> jax.Array:
        def meet(row: jax.Array, other: jax.Array) -> tuple[jax.Array, None]:
            conflict = jnp.where(other == index, 0.0, jnp.minimum(products[other] @ row, 0.0))
            return row.at[other].add(-conflict), None

        return jax.lax.scan(meet, jnp.zeros_like(norms).at[index].set(1.0), own_order)[0]

    return _weights(jax.vmap(one)(jnp.arange(len(norms)), order), norms)


class Targets(NamedTuple):
    """The cosine [K, K] with gradient j that gradient i is brought to, at [i, j]."""

    cosines: jax.Array


def gradvac(decay: float = 0.99) -> Weighting:
    """Gradient vaccine: turns each gradient towards the others until the cosines are their own running means.

    With p = cos(g_i', g_j) and target t_ij, for all j != i in an order of i's own: where p < t_ij,
    g_i' <- g_i' + ||g_i'|| (t_ij sqrt(1 - p^2) - p sqrt(1 - t_ij^2)) / (n_j sqrt(1 - t_ij^2)) g_j, whose cosine with
    g_j is t_ij; then t_ij <- decay t_ij + (1 - decay) p, from 0. d = sum g_i'. The state holds the targets.

    Wang et al. 2020 (Gradient Vaccine), arXiv 2010.05874, algorithm 1, with 1 - decay = 0.01 as there; LibMTL and
    TorchJD have 0.5. Deviations: |t| is at most 0.999, and zero gradients leave targets alone. SamsungLabs/MTL moves
    targets in conflicts only.
    """
    if not 0 <= decay <= 1:
        raise AuxjaxError(f"decay of gradvac must be from 0 to 1, not {decay!r}")

    def init(names: tuple[str, ...], trunk: Any) -> Targets:
        return Targets(jnp.zeros((len(names), len(names))))

    def update(signals: Signals, state: Targets) -> tuple[Update, Targets]:
        gramian = gramian_in(signals)
        targets = state.cosines.astype(gramian.dtype)
        weights, targets = vaccinated(gramian, targets, orders(signals, len(gramian)), decay)
        return Update(weights), Targets(targets.astype(state.cosines.dtype))

    return Weighting(init, update, frozenset({"gramian"}))


def vaccinated(gramian: jax.Array, targets: jax.Array, order: jax.Array, decay: float) -> tuple[jax.Array, jax.Array]:
    """Returns GradVac's weights [K] and its new targets [K, K], gradient i meeting the others in the order order[i]."""
    products, norms = units(gramian)

    def one(index: jax.Array, own: jax.Array, own_order: jax.Array) -> tuple[jax.Array, jax.Array]:
        def meet(carry: tuple[jax.Array, jax.Array], other: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
            row, own = carry
            length = jnp.sqrt(jnp.maximum(row @ products @ row, 0.0))
            actual = jnp.clip(quotient(products[other] @ row, length), -1.0, 1.0)
            target = jnp.clip(own[other], -LARGEST_TARGET, LARGEST_TARGET)
            sine, target_sine = jnp.sqrt(1 - actual**2), jnp.sqrt(1 - target**2)
            seen = (other != index) & (length > 0) & (norms[other] > 0)
            missing = length * (target * sine - actual * target_sine) / target_sine
            moved = decay * own[other] + (1 - decay) * actual
            row = row.at[other].add(jnp.where(seen & (actual < target), missing, 0.0))
            return (row, own.at[other].set(jnp.where(seen, moved, own[other]))), None

        start = jnp.where(norms[index] > 0, 1.0, 0.0).astype(norms.dtype)
        return jax.lax.scan(meet, (jnp.zeros_like(norms).at[index].set(start), own), own_order)[0]

    rows, targets = jax.vmap(one)(jnp.arange(len(norms)), targets, order)
    return _weights(rows, norms), targets


def orders(signals: Signals, size: int) -> jax.Array:
    """Returns [K, K], a random order of the K gradients for each of them."""
    assert signals.key is not None
    return jnp.argsort(jax.random.uniform(signals.key, (size, size)), axis=1)


def _weights(rows: jax.Array, norms: jax.Array) -> jax.Array:
    """Returns the weights of gradients that are rows [K, K] of coefficients on unit gradients, times their norms."""
    others = jnp.where(jnp.eye(len(norms), dtype=bool), 0.0, rows)
    return 1 + quotient(norms @ others, norms)


METHODS: dict[str, Method] = {
    "pcgrad": Method(pcgrad, "Yu et al. 2020, arXiv 2001.06782, algorithm 1", frozenset(), "LibMTL, TorchJD"),
    "gradvac": Method(
        gradvac,
        "Wang et al. 2020, arXiv 2010.05874, algorithm 1",
        frozenset(),
        "LibMTL and TorchJD (0.5), SamsungLabs/MTL (targets move in conflicts only)",
    ),
}
