"""Methods that follow moving averages of the K trunk gradients: the state holds K trees as large as the trunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from auxjax.errors import AuxjaxError
from auxjax.weighting.active_set import quotient
from auxjax.weighting.directions import gradients_in, wide
from auxjax.weighting.protocol import Method, Signals, Update, Weighting, combine, gramian_of, inner
from auxjax.weighting.scalarized import bounded_losses

# Above a factor that is only logged: that of a gradient which has all but vanished.
LARGEST_FACTOR = 1e12


class Tracked(NamedTuple):
    """The K averaged gradients (trees in float32 or wider), the weights [K], and how many steps there were."""

    gradients: tuple[Any, ...]
    weights: jax.Array
    steps: jax.Array


def moco(
    tracking_rate: float = 0.5, learning_rate: float = 0.1, power: float = 0.5, regularisation: float = 0.0
) -> Weighting:
    """Stochastic gradient correction: the least point in the hull of the averaged gradients, tracked with its weights.

    y_k <- y_k - b_t (y_k - g_k), w <- P(w - c_t (Y'Y + regularisation I) w), d = sum_k w_k y_k, where P projects onto
    the simplex, b_t = tracking_rate / t^power, c_t = learning_rate / t^power, y = 0 and w = 1 / K at first. The state
    holds y, w and t.

    Fernando et al. 2023, ICLR (arXiv 2210.12624), algorithm 1; the rates are those of its experiments, as in LibMTL.
    Deviations: d is made of the new y and w, as in the authors' code, where the algorithm takes the old ones; main
    alone is followed without an average. LibMTL has a softmax for P, and makes each gradient as long as its loss is
    large.
    """

    def update(signals: Signals, state: Tracked) -> tuple[Update, Tracked]:
        gradients = gradients_in(signals)
        steps = state.steps + 1
        decrease = steps.astype(state.weights.dtype) ** power
        averages = _moved(state.gradients, gradients, tracking_rate / decrease)
        gramian = gramian_of(averages)
        old = state.weights.astype(gramian.dtype)
        slope = gramian @ old + regularisation * old
        weights = onto_simplex(old - (learning_rate / decrease).astype(gramian.dtype) * slope)
        new = Tracked(averages, weights.astype(state.weights.dtype), steps)
        return _update(weights, combine(weights, averages), gradients), new

    return Weighting(start_tracking, update, frozenset({"gradients"}))


def db_mtl(decay: float = 0.9, power: float = 0.0) -> Weighting:
    """Dual balancing: averaged gradients of the losses' logarithms, all made as long as the longest.

    u_k <- b_t u_k + (1 - b_t) g_k / L_k, b_t = decay / t^power, u = 0 at first; d = max_j ||u_j|| sum_k u_k / ||u_k||.
    The weights, for the log, are max_j ||u_j|| / (||u_k|| L_k), at most 1e12, and 0 for a zero average. The state holds
    u and t.

    Lin et al. 2023, arXiv 2308.12029, section 3 and algorithm 1; LibMTL is the authors', with these defaults.
    Deviations: a loss below 1e-8 counts as 1e-8, where 1e-8 is added to losses and lengths; main alone is followed
    without an average. A head's own weight does not act here, as the logarithm makes a constant of it.
    """
    if not 0 <= decay < 1:
        raise AuxjaxError(f"decay of db_mtl must be at least 0 and below 1, not {decay!r}")

    def update(signals: Signals, state: Tracked) -> tuple[Update, Tracked]:
        gradients = gradients_in(signals)
        losses = bounded_losses(signals)
        steps = state.steps + 1
        rate = 1 - decay / steps.astype(state.weights.dtype) ** power
        averages = _moved(state.gradients, gradients, rate, losses)
        lengths = jnp.stack([jnp.sqrt(inner(u, u)) for u in averages])
        pairs = zip(averages, lengths, strict=True)
        directions = [jax.tree.map(lambda x, n=n: quotient(x, n.astype(x.dtype)), u) for u, n in pairs]
        direction = combine(jnp.broadcast_to(lengths.max(), lengths.shape), directions)
        factors = quotient(lengths.max(), lengths) / losses.astype(lengths.dtype)
        weights = jnp.minimum(factors, LARGEST_FACTOR)
        new = Tracked(averages, weights.astype(state.weights.dtype), steps)
        return _update(weights, direction, gradients), new

    return Weighting(start_tracking, update, frozenset({"gradients", "losses"}))


def start_tracking(names: tuple[str, ...], trunk: Any) -> Tracked:
    """Returns K zero trees of the trunk's shapes in float32 or wider, equal weights that sum to 1, and 0 steps."""
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, wide(x)), trunk)
    return Tracked((zeros,) * len(names), jnp.full(len(names), 1 / len(names)), jnp.zeros((), jnp.int32))


def onto_simplex(vector: jax.Array) -> jax.Array:
    """Returns the point of the simplex nearest to the vector [K], however large its entries are."""
    # The same number added to all entries changes nothing; at most 0, they lose none of the sum 1 to rounding.
    shifted = vector - vector.max()
    ordered = jnp.sort(shifted, descending=True)
    thresholds = (jnp.cumsum(ordered) - 1) / jnp.arange(1, len(vector) + 1, dtype=vector.dtype)
    return jnp.maximum(shifted - thresholds[jnp.sum(ordered > thresholds) - 1], 0.0)


def _moved(
    averages: Sequence[Any], gradients: Sequence[Any], rate: jax.Array, divisors: jax.Array | None = None
) -> tuple[Any, ...]:
    """Returns the averages moved by `rate` towards the gradients, each divided by its divisor if there are any."""
    by = jnp.ones(len(gradients)) if divisors is None else divisors

    def leaf(m: jax.Array, g: jax.Array, divisor: jax.Array) -> jax.Array:
        return m + rate.astype(m.dtype) * (g.astype(m.dtype) / divisor.astype(m.dtype) - m)

    pairs = zip(averages, gradients, by, strict=True)
    return tuple(jax.tree.map(lambda m, g, d=d: leaf(m, g, d), average, tree) for average, tree, d in pairs)


def _update(weights: jax.Array, direction: Any, gradients: Sequence[Any]) -> Update:
    """Returns the update in the gradients' dtypes; that of main alone is its gradient."""
    if len(gradients) == 1:
        return Update(jnp.ones_like(weights), gradients[0])
    return Update(weights, jax.tree.map(lambda d, g: d.astype(g.dtype), direction, gradients[0]))


METHODS: dict[str, Method] = {
    "moco": Method(
        moco,
        "Fernando et al. 2023, arXiv 2210.12624, algorithm 1",
        frozenset({"sum_one", "symmetric", "heads_symmetric"}),
        "LibMTL (softmax; gradients as long as their losses)",
    ),
    "db_mtl": Method(
        db_mtl,
        "Lin et al. 2023, arXiv 2308.12029, algorithm 1",
        frozenset({"scale_invariant", "symmetric", "heads_symmetric"}),
        "LibMTL",
    ),
}
