"""Methods that bring each auxiliary gradient to the size of main's, parameter tensor by parameter tensor."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from auxjax.weighting.active_set import quotient
from auxjax.weighting.directions import gradients_in, leaf_norms, leafwise, rescaled, shares, wide
from auxjax.weighting.protocol import Method, Signals, Update, Weighting

# The largest ratio of two averaged norms: it bounds what follows once a gradient has vanished and its average decays.
LARGEST_RATIO = 1e12


class Norms(NamedTuple):
    """The moving averages [K, L] of the norms of K gradients in each of the L parameter tensors."""

    averages: jax.Array


def meta_balance(relax: float = 0.7, decay: float = 0.9) -> Weighting:
    """Brings each auxiliary gradient near main's in size, in every parameter tensor by itself.

    n_il <- decay n_il + (1 - decay) ||g_il||, from 0, and d_l = sum_i (relax n_0l / n_il + 1 - relax) g_il. Main's own
    factor is 1. Directions are left as they are, so main may rise. The state holds the norms.

    He et al. 2022 (MetaBalance), arXiv 2203.06801: relax factor 0.7 and beta 0.9 as in the authors' code. Deviation:
    n_0l / n_il is at most 1e12, which n_il >= (1 - decay) ||g_il|| makes felt only by gradients that have vanished.
    """

    def init(names: tuple[str, ...], trunk: Any) -> Norms:
        return Norms(jnp.zeros((len(names), len(jax.tree.leaves(trunk)))))

    def update(signals: Signals, state: Norms) -> tuple[Update, Norms]:
        gradients = gradients_in(signals)
        norms = leaf_norms(gradients)
        averages = decay * state.averages + (1 - decay) * norms.astype(state.averages.dtype)
        factors = (relax * _ratios(averages[:1], averages) + 1 - relax).astype(norms.dtype)
        return rescaled(gradients, factors.at[0].set(1.0)), Norms(averages)

    return Weighting(init, update, frozenset({"gradients"}))


class Moments(NamedTuple):
    """Averaged norms [K, L], K first and K second moments (float32 or wider), and how many steps they are of."""

    norms: jax.Array
    first: tuple[Any, ...]
    second: tuple[Any, ...]
    steps: jax.Array


def mt_adam(
    decay: float = 0.9, square_decay: float = 0.999, norm_decay: float = 0.9, epsilon: float = 1e-8
) -> Weighting:
    """Gives each loss Adam moments of its own, after its gradient has been brought to main's size in every tensor.

    g_il' = (n_al / n_il) g_il with averaged norms n (started at the first norm), a = main, or where main has no
    gradient in that tensor the first loss that has; m_i and v_i are Adam's moments of g_i', bias corrected;
    d = sum_i m_i / max_j (sqrt(v_j) + epsilon). For K = 1 it is Adam's direction. **Use it with plain SGD**: an Adam
    after it would normalise twice. The state holds the norms, 2 K trees and a count.

    Malkiel & Wolf 2020 (MTAdam), arXiv 2006.14683, algorithm 1, and the authors' code with all ranks 1. A head's own
    weight does not act here, as it scales that head's gradient.
    """

    def init(names: tuple[str, ...], trunk: Any) -> Moments:
        zeros = tuple(jax.tree.map(lambda x: jnp.zeros_like(x, dtype=wide(x)), trunk) for _ in names)
        norms = jnp.zeros((len(names), len(jax.tree.leaves(trunk))))
        return Moments(norms, zeros, zeros, jnp.zeros((), jnp.int32))

    def update(signals: Signals, state: Moments) -> tuple[Update, Moments]:
        gradients = gradients_in(signals)
        now = leaf_norms(gradients).astype(state.norms.dtype)
        norms = jnp.where(state.steps == 0, now, norm_decay * state.norms + (1 - norm_decay) * now)
        anchor = jnp.take_along_axis(norms, jnp.argmax(norms > 0, axis=0).reshape(1, -1), axis=0)
        factors = _ratios(anchor, norms)
        balanced = leafwise(gradients, factors)
        first, second = (
            tuple(
                jax.tree.map(lambda m, g, b=b, p=p: b * m + (1 - b) * g.astype(m.dtype) ** p, moment, tree)
                for moment, tree in zip(moments, balanced, strict=True)
            )
            for moments, b, p in ((state.first, decay, 1), (state.second, square_decay, 2))
        )
        new = Moments(norms, first, second, state.steps + 1)
        direction = _adam(new, gradients[0], decay, square_decay, epsilon)
        weights = shares(factors, now).at[0].set(1.0)
        return Update(weights, direction), new

    return Weighting(init, update, frozenset({"gradients"}))


def _adam(moments: Moments, like: Any, decay: float, square_decay: float, epsilon: float) -> Any:
    count = len(moments.first)

    def leaf(g: jax.Array, *both: jax.Array) -> jax.Array:
        first, second = both[:count], both[count:]
        corrections = (1 - jnp.asarray(b, first[0].dtype) ** moments.steps for b in (decay, square_decay))
        mean, square = corrections
        return (sum(first) / mean / (jnp.sqrt(jnp.stack(second).max(axis=0) / square) + epsilon)).astype(g.dtype)

    return jax.tree.map(leaf, like, *moments.first, *moments.second)


def _ratios(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns a / b for norms, at most LARGEST_RATIO, and 0 where a is 0."""
    return quotient(a, jnp.maximum(b, a / LARGEST_RATIO))


METHODS: dict[str, Method] = {
    "meta_balance": Method(
        meta_balance,
        "He et al. 2022, arXiv 2203.06801, algorithm 1",
        frozenset({"main_one", "heads_symmetric"}),
        "the authors' (facebookresearch/MetaBalance)",
    ),
    "mt_adam": Method(
        mt_adam,
        "Malkiel & Wolf 2020, arXiv 2006.14683, algorithm 1",
        frozenset(),
        "the authors' (ItzikMalkiel/MTAdam)",
    ),
}
