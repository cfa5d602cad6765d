"""Methods made for one main loss and its auxiliary losses, which read nothing but the Gramian of the trunk gradients.

G is the Gramian of g_0 (main), g_1, ..., g_{K-1}, and n_k = ||g_k||. A method that asks for whole gradients stands in
`directions.py`, and priority-constrained descent in `priority.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from auxjax.weighting.active_set import quotient
from auxjax.weighting.protocol import Method, Signals, Update, Weighting, no_state
from auxjax.weighting.quadratic import simplex_minimum

# The cosine that GradVac aims at stays this far from 1, where its formula divides by the sine.
LARGEST_TARGET = 0.999


def gcs(soft: bool = False) -> Weighting:
    """Keeps an auxiliary gradient while it has an acute angle with main's: gradient cosine similarity.

    w_0 = 1 and w_i = 1[cos(g_0, g_i) > 0], or max(0, cos(g_0, g_i)) where `soft`. So g_0 . d = G_00 + sum w_i G_0i is a
    sum of terms that are not negative: main never rises, to first order. A zero gradient has cosine 0. No state.

    Du et al. 2018, arXiv 1812.02224: the unweighted version is the hard one, the weighted version the soft one.
    """

    def update(signals: Signals, state: Any) -> tuple[Update, Any]:
        gramian = gramian_in(signals)
        kept = jnp.clip(cosines(gramian), 0.0, 1.0) if soft else (gramian[0] > 0).astype(gramian.dtype)
        return Update(kept.at[0].set(1.0)), state

    return Weighting(no_state, update, frozenset({"gramian"}))


def pri_pcgrad() -> Weighting:
    """Removes from each auxiliary gradient what opposes main's; main's own stays: PCGrad with a primary loss.

    g_i' = g_i - min(0, G_0i) / G_00 g_0, d = g_0 + sum g_i', hence w_0 = 1 + sum max(0, -G_0i) / G_00 and w_i = 1. So
    g_0 . d = G_00 + sum max(0, G_0i): main never rises, to first order. No state.

    Yu et al. 2020, arXiv 2001.06782, algorithm 1, restricted to main's gradient as "PriPCGrad" of Jiang et al. 2023
    (ForkMerge, arXiv 2301.12618). LibMTL and TorchJD have the symmetric method only.
    """

    def update(signals: Signals, state: Any) -> tuple[Update, Any]:
        gramian = gramian_in(signals)
        opposed = jnp.sum(jnp.maximum(-gramian[0, 1:], 0.0))
        return Update(jnp.ones_like(gramian[0]).at[0].add(quotient(opposed, gramian[0, 0]))), state

    return Weighting(no_state, update, frozenset({"gramian"}))


class Targets(NamedTuple):
    """The cosine with main that each loss is brought to, [K]; main's own is not used."""

    cosines: jax.Array


def pri_gradvac(decay: float = 0.99) -> Weighting:
    """Turns an auxiliary gradient towards main's until their cosine is its own running mean: GradVac with a primary.

    With p_i = cos(g_0, g_i) and target t_i, where p_i < t_i:
    g_i' = g_i + n_i (t_i sqrt(1 - p_i^2) - p_i sqrt(1 - t_i^2)) / (n_0 sqrt(1 - t_i^2)) g_0, whose cosine with g_0 is
    t_i; afterwards t_i <- decay t_i + (1 - decay) p_i, from 0. d = g_0 + sum g_i': the added multiples of g_0 are part
    of w_0, and w_i = 1. A target may be negative, so main may rise. The state holds the K targets.

    Wang et al. 2020 (Gradient Vaccine), arXiv 2010.05874, algorithm 1, with 1 - decay = 0.01 as there, restricted to
    main's gradient as "PriGradVac" of ForkMerge; LibMTL's default of beta is 0.5. Deviations: |t| is at most 0.999, and
    a zero gradient leaves its target alone.
    """

    def init(names: tuple[str, ...], trunk: Any) -> Targets:
        return Targets(jnp.zeros((len(names),)))

    def update(signals: Signals, state: Targets) -> tuple[Update, Targets]:
        gramian = gramian_in(signals)
        norms, actual = jnp.sqrt(jnp.diag(gramian)), cosines(gramian)
        target = jnp.clip(state.cosines.astype(gramian.dtype), -LARGEST_TARGET, LARGEST_TARGET)
        sine, target_sine = jnp.sqrt(1 - actual**2), jnp.sqrt(1 - target**2)
        multiple = quotient(norms * (target * sine - actual * target_sine) / target_sine, norms[0])
        needed = ((actual < target) & (norms > 0)).at[0].set(False)
        moved = decay * state.cosines + (1 - decay) * actual.astype(state.cosines.dtype)
        seen = (norms > 0) & (norms[0] > 0)
        weights = jnp.ones_like(norms).at[0].add(jnp.sum(jnp.where(needed, multiple, 0.0)))
        return Update(weights), Targets(jnp.where(seen, moved, state.cosines))

    return Weighting(init, update, frozenset({"gramian"}))


class Online(NamedTuple):
    """The learned weights [K], the sums of G_0i since they last changed [K], and how many steps those are of."""

    weights: jax.Array
    products: jax.Array
    steps: jax.Array


def ol_aux(learning_rate: float = 0.01, period_steps: int = 5) -> Weighting:
    """Learns each auxiliary weight online, by how far that loss's gradients served main over the last few steps.

    w_i <- max(0, w_i + learning_rate * sum G_0i), the sum over the last `period_steps` steps, which still used the old
    weight; w_0 = 1 and every w_i starts at 1. The state holds weights, sums and a count.

    Lin et al., NeurIPS 2019, algorithm 1 (N = 5). `learning_rate` is the paper's beta times the step size alpha of the
    network; an inner product carries the scale of both losses, so it has to be tuned with them. Deviation: weights stop
    at 0, so that a harmful loss is dropped and not climbed. ForkMerge's code has no such bound, and takes cosines.
    """

    def init(names: tuple[str, ...], trunk: Any) -> Online:
        return Online(jnp.ones((len(names),)), jnp.zeros((len(names),)), jnp.zeros((), jnp.int32))

    def update(signals: Signals, state: Online) -> tuple[Update, Online]:
        gramian = gramian_in(signals)
        products = state.products + gramian[0].astype(state.products.dtype)
        due = state.steps + 1 >= period_steps
        learned = jnp.maximum(state.weights + learning_rate * products, 0.0).at[0].set(1.0)
        new = Online(
            weights=jnp.where(due, learned, state.weights),
            products=jnp.where(due, 0.0, products),
            steps=jnp.where(due, 0, state.steps + 1),
        )
        return Update(state.weights.astype(gramian.dtype)), new

    return Weighting(init, update, frozenset({"gramian"}))


def arml(scale: float = 1.0) -> Weighting:
    """Weights the auxiliary losses so that their summed gradient is the nearest to main's.

    w_0 = 1 and w_{1:} = argmin ||g_0 - sum w_i g_i||^2 over w_i >= 0, sum_{i>=1} w_i = s = `scale` (K - 1). With
    w = s v that is the least norm point sum v_i u_i of the hull of u_i = s g_i - g_0, found from its Gramian. No state.

    Shi et al. 2020 (ARML), arXiv 2010.08244, section 3, where the weights sum to the number of losses (scale 1).
    Deviation: the paper follows this objective by one step of gradient descent per training step, with Langevin noise
    on the parameters; here each step has its own exact minimum and no noise. The authors' code has no simplex.
    """

    def update(signals: Signals, state: Any) -> tuple[Update, Any]:
        gramian = gramian_in(signals)
        heads = gramian.shape[0] - 1
        total = scale * heads
        if heads == 0:
            return Update(jnp.ones_like(gramian[0])), state
        cross = gramian[0, 1:].reshape(1, heads)
        hull = total**2 * gramian[1:, 1:] - total * (cross + cross.T) + gramian[0, 0]
        return Update(jnp.concatenate([jnp.ones_like(gramian[0, :1]), total * simplex_minimum(hull)])), state

    return Weighting(no_state, update, frozenset({"gramian"}))


def gramian_in(signals: Signals) -> jax.Array:
    """Returns the Gramian [K, K], which the method's `needs` promise."""
    assert signals.gramian is not None
    return signals.gramian


def cosines(gramian: jax.Array) -> jax.Array:
    """Returns [K], each gradient's cosine with main's; 0 where either gradient is zero."""
    norms = jnp.sqrt(jnp.diag(gramian))
    return jnp.clip(quotient(quotient(gramian[0], norms), norms[0]), -1.0, 1.0)


_SOURCE = "a baseline of Jiang et al. 2023, arXiv 2301.12618"
METHODS: dict[str, Method] = {
    "gcs": Method(
        gcs,
        "Du et al. 2018, arXiv 1812.02224, the unweighted (hard) and weighted (soft) versions",
        frozenset({"main_first", "main_one", "heads_symmetric"}),
        "ForkMerge (a branch of LibMTL)",
    ),
    "pri_pcgrad": Method(
        pri_pcgrad,
        f"Yu et al. 2020, arXiv 2001.06782, algorithm 1, with a primary loss: {_SOURCE}",
        frozenset({"main_first", "heads_symmetric"}),
        "ForkMerge",
    ),
    "pri_gradvac": Method(
        pri_gradvac,
        f"Wang et al. 2020, arXiv 2010.05874, algorithm 1, with a primary loss: {_SOURCE}",
        frozenset({"heads_symmetric"}),
        "ForkMerge",
    ),
    "ol_aux": Method(
        ol_aux,
        "Lin et al., NeurIPS 2019 (Adaptive Auxiliary Task Weighting), algorithm 1",
        frozenset({"main_one", "heads_symmetric"}),
        "ForkMerge (cosines, three tasks, no bound)",
    ),
    "arml": Method(
        arml,
        "Shi et al. 2020, arXiv 2010.08244, section 3",
        frozenset({"main_one"}),
        "the authors' (no simplex); ForkMerge (no simplex)",
    ),
}
