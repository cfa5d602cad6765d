"""GradNorm: weights that are learned from the norms of the gradients and the speeds of the losses."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from auxjax.errors import AuxjaxError
from auxjax.weighting.asymmetric import gramian_in
from auxjax.weighting.protocol import Method, Signals, Update, Weighting
from auxjax.weighting.scalarized import bounded_losses, unless_alone

# Weights stay above this, or a sign could turn.
SMALLEST_WEIGHT = 1e-3
# Above a power of a ratio of losses, which then stays finite.
LARGEST_RATE = 1e12


class Rates(NamedTuple):
    """GradNorm's weights [K] with the state of their optimizer, the first losses [K], and if there are any."""

    weights: jax.Array
    optimizer: Any
    first: jax.Array
    started: jax.Array


def gradnorm(alpha: float = 1.5, learning_rate: float = 0.025) -> Weighting:
    """GradNorm: learns weights under which every loss falls at one relative speed.

    Minimises sum_k |w_k n_k - t_k|, n_k = ||g_k||, t_k = mean_j(w_j n_j) r_k^alpha held constant,
    r = (L / L(0)) / mean(L / L(0)), by one step of Adam at each step; then w <- K w / sum w. The step itself uses the
    weights from before. The state holds the weights, Adam's moments, the first losses and whether there are any.

    Chen et al. 2018, arXiv 1711.02257, algorithm 1, with the alpha of its NYUv2 experiments (LibMTL too; 2 in
    SamsungLabs/MTL, 0 in lucidrains/gradnorm-pytorch, which has r^-alpha). Deviations: norms are those of the whole
    trunk's gradients, not of its last layer's; weights stay above 1e-3; a loss below 1e-8 counts as 1e-8.
    """
    if not learning_rate > 0:
        raise AuxjaxError(f"learning_rate of gradnorm must be above 0, not {learning_rate!r}")
    optimizer = optax.adam(learning_rate)

    def init(names: tuple[str, ...], trunk: Any) -> Rates:
        ones = jnp.ones(len(names))
        return Rates(ones, optimizer.init(ones), ones, jnp.asarray(False))

    def update(signals: Signals, state: Rates) -> tuple[Update, Rates]:
        weights, dtype = state.weights, state.weights.dtype
        losses, gramian = bounded_losses(signals).astype(dtype), gramian_in(signals)
        norms = jnp.sqrt(jnp.maximum(jnp.diag(gramian), 0.0)).astype(dtype)
        first = jnp.where(state.started, state.first, losses)
        rates = losses / first
        targets = jnp.mean(weights * norms) * jnp.minimum((rates / rates.mean()) ** alpha, LARGEST_RATE)
        slope = norms * jnp.sign(weights * norms - targets)
        change, moments = optimizer.update(slope, state.optimizer)
        moved = jnp.maximum(weights + change, SMALLEST_WEIGHT)
        moved = moved * (len(moved) / moved.sum())
        new = Rates(moved.astype(dtype), moments, first, jnp.asarray(True))
        return Update(unless_alone(weights).astype(gramian.dtype)), new

    return Weighting(init, update, frozenset({"gramian", "losses"}))


METHODS: dict[str, Method] = {
    "gradnorm": Method(
        gradnorm,
        "Chen et al. 2018, arXiv 1711.02257, algorithm 1",
        frozenset({"symmetric", "heads_symmetric", "sum_k"}),
        "LibMTL, SamsungLabs/MTL (alpha 2), lucidrains/gradnorm-pytorch (r^-alpha)",
    ),
}
