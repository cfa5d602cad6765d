"""Methods made for one main loss and its auxiliary losses that read whole trunk gradients and give a direction.

The weights beside a direction are for the log: w_i = (g_i' . g_i) / ||g_i||^2, the share of g_i that is in g_i', what
the method has made of it; 0 for a zero gradient, and 1 for main.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from auxjax.weighting.active_set import quotient
from auxjax.weighting.protocol import Method, Signals, Update, Weighting, combine, inner, no_state


def gcs_per_tensor(soft: bool = False) -> Weighting:
    """Keeps an auxiliary gradient in those parameter tensors where it has an acute angle with main's.

    d_l = g_0l + sum_i c_il g_il over the tensors l, c_il = 1[g_0l . g_il > 0], or max(0, cos(g_0l, g_il)) where `soft`.
    g_0 . d = ||g_0||^2 + sum c_il g_0l . g_il has no negative term: main never rises, to first order. No state.

    Du et al. 2018, arXiv 1812.02224, applied to each tensor by itself.
    """

    def update(signals: Signals, state: Any) -> tuple[Update, Any]:
        gradients = gradients_in(signals)
        products = leaf_products(gradients[:1] * len(gradients), gradients)
        norms = leaf_norms(gradients)
        cosine = jnp.clip(quotient(quotient(products, norms), norms[:1]), 0.0, 1.0)
        kept = cosine if soft else (products > 0).astype(products.dtype)
        return rescaled(gradients, kept.at[0].set(1.0)), state

    return Weighting(no_state, update, frozenset({"gradients"}))


def sign_gate() -> Weighting:
    """Keeps those coordinates of an auxiliary gradient whose sign is that of main's.

    d = g_0 + sum_i 1[g_0 g_i > 0] g_i, coordinate by coordinate. g_0 . d = ||g_0||^2 + a sum of positive products: main
    never rises, to first order. No state.

    Du et al. 2018, arXiv 1812.02224, taken to its finest grain: one cosine per coordinate.
    """

    def gate(main: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.where(jnp.sign(main) * jnp.sign(other) > 0, other, jnp.zeros_like(other))

    def update(signals: Signals, state: Any) -> tuple[Update, Any]:
        main, *others = gradients_in(signals)
        return summed([main, *others], [main, *(jax.tree.map(gate, main, other) for other in others)]), state

    return Weighting(no_state, update, frozenset({"gradients"}))


class MainAverage(NamedTuple):
    """The moving average of main's gradient, in float32 or wider, and whether it has been started."""

    gradient: Any
    started: jax.Array


def bloop(strength: float = 0.1, decay: float = 0.9) -> Weighting:
    """Adds to main's gradient that part of the auxiliary ones that is orthogonal to main's averaged gradient.

    m <- decay m + (1 - decay) g_0, m = g_0 at first; a = sum_{i>=1} g_i; d = g_0 + strength (a - (a . m) / ||m||^2 m).
    The weights are (1, strength, ..., strength). d is orthogonal to m and not to g_0, so main may rise on a batch that
    disagrees with its average; with decay 0, g_0 . d = ||g_0||^2. The state holds m.

    Hsieh et al. 2024 (Bloop), arXiv 2402.02998, section 2; defaults, start and the order (m moves first) are those of
    the authors' code. Deviation: it adds 1e-7 to ||m||^2, which would let small gradients through unprojected.
    """

    def init(names: tuple[str, ...], trunk: Any) -> MainAverage:
        return MainAverage(jax.tree.map(lambda x: jnp.zeros_like(x, dtype=wide(x)), trunk), jnp.zeros((), bool))

    def update(signals: Signals, state: MainAverage) -> tuple[Update, MainAverage]:
        main, *others = gradients_in(signals)
        rate = jnp.where(state.started, 1 - decay, 1.0)
        average = jax.tree.map(lambda m, g: m + rate.astype(m.dtype) * (g.astype(m.dtype) - m), state.gradient, main)
        new = MainAverage(average, jnp.ones((), bool))
        count = len(others) + 1
        ones = jnp.ones((count,), inner(main, main).dtype)
        weights = ones.at[1:].set(strength)
        if not others:
            return Update(ones, main), new
        added = combine(ones[1:], others)
        share = quotient(inner(added, average), inner(average, average))

        def leaf(g: jax.Array, a: jax.Array, m: jax.Array) -> jax.Array:
            return g + strength * (a - (share.astype(m.dtype) * m).astype(a.dtype))

        return Update(weights, jax.tree.map(leaf, main, added, average)), new

    return Weighting(init, update, frozenset({"gradients"}))


def gradients_in(signals: Signals) -> tuple[Any, ...]:
    """Returns the K gradients, which the method's `needs` promise."""
    assert signals.gradients is not None
    return signals.gradients


def wide(x: jax.Array) -> Any:
    """Returns the array's dtype, or float32 where that is wider."""
    return jnp.promote_types(x.dtype, jnp.float32)


def summed(gradients: Sequence[Any], changed: Sequence[Any]) -> Update:
    """Returns the sum of what a method has `changed` the gradients to, and the share of each that it has kept."""
    shares = [quotient(inner(a, g), inner(g, g)) for a, g in zip(changed, gradients, strict=True)]
    weights = jnp.stack(shares).at[0].set(1.0)
    return Update(weights, combine(jnp.ones_like(weights), changed))


def leaf_products(a: Sequence[Any], b: Sequence[Any]) -> jax.Array:
    """Returns [K, L]: the inner products of two sequences of trees, pair by pair and tensor by tensor."""
    pairs = zip(a, b, strict=True)
    return jnp.stack(
        [jnp.stack([inner(*xy) for xy in zip(*map(jax.tree.leaves, pair), strict=True)]) for pair in pairs]
    )


def leaf_norms(gradients: Sequence[Any]) -> jax.Array:
    return jnp.sqrt(leaf_products(gradients, gradients))


def leafwise(gradients: Sequence[Any], factors: jax.Array) -> list[Any]:
    """Returns the K gradients with tensor l of gradient k multiplied by factors[k, l]."""
    structure = jax.tree.structure(gradients[0])
    leaves = [jax.tree.leaves(g) for g in gradients]
    return [
        jax.tree.unflatten(structure, [factors[k, i].astype(x.dtype) * x for i, x in enumerate(row)])
        for k, row in enumerate(leaves)
    ]


def shares(factors: jax.Array, norms: jax.Array) -> jax.Array:
    """Returns [K], the factors [K, L] averaged over the tensors by the squares of the norms."""
    return quotient(jnp.sum(factors * norms**2, axis=1), jnp.sum(norms**2, axis=1))


def rescaled(gradients: Sequence[Any], factors: jax.Array) -> Update:
    weights = shares(factors, leaf_norms(gradients)).at[0].set(1.0)
    return Update(weights, combine(jnp.ones_like(weights), leafwise(gradients, factors)))


METHODS: dict[str, Method] = {
    "gcs_per_tensor": Method(
        gcs_per_tensor,
        "Du et al. 2018, arXiv 1812.02224, by parameter tensor",
        frozenset({"main_first", "main_one", "heads_symmetric"}),
        "none",
    ),
    "sign_gate": Method(
        sign_gate,
        "Du et al. 2018, arXiv 1812.02224, by coordinate",
        frozenset({"main_first", "main_one", "heads_symmetric"}),
        "none",
    ),
    "bloop": Method(
        bloop,
        "Hsieh et al. 2024, arXiv 2402.02998, section 2",
        frozenset({"main_one", "heads_symmetric"}),
        "the authors' (apple/ml-bloop; adds 1e-7 to the squared norm)",
    ),
}
