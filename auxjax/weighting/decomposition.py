"""ATTITTUD: auxiliary gradients split into what helps main, what harms it, and what does not concern it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from auxjax.errors import AuxjaxError
from auxjax.weighting.active_set import quotient
from auxjax.weighting.directions import gradients_in, summed, wide
from auxjax.weighting.protocol import Method, Signals, Update, Weighting, inner

# Directions with less than this share of the largest squared singular value are not in the basis.
SMALLEST_SHARE = 1e-3


class MainGradients(NamedTuple):
    """The last `basis` gradients of main at unit length, stacked in every first axis, and how many there were."""

    rows: Any
    seen: jax.Array


def attittud(orthogonal: float = 1.0, helpful: float = 1.0, harmful: float = 0.0, basis: int = 20) -> Weighting:
    """Weighs by itself what in an auxiliary gradient lies along main's gradients and for it, against it, or across.

    With v_k the right singular vectors of main's last `basis` gradients (this step's among them), q_k = v_k . g_0 and
    p_ik = v_k . g_i: g_i' = orthogonal (g_i - sum_k p_ik v_k) + sum_k c_ik p_ik v_k, where c_ik = `helpful` if
    p_ik q_k > 0, else `harmful`; d = g_0 + sum g_i'. As g_0 . g_i' = sum_k c_ik p_ik q_k, main never rises, to first
    order, where helpful >= 0 >= harmful. The state holds `basis` copies of the trunk.

    Dery et al. 2021 (ATTITTUD), arXiv 2108.11346, section 3, with the authors' basis of 20. Deviations: the paper's
    basis spans main's gradients of single examples, which a step does not have, so the steps' own gradients stand for
    them, each scaled to unit length; directions of under 0.1 % of the largest squared singular value are left out; and
    g_0 . g_i' is set to its sum, which a truncated basis in float32 misses. The authors' code has the weights
    (1, 0, 0) by default, and leaves them to be tuned; (1, 1, 0) drops what harms and nothing else.
    """
    if basis < 1:
        raise AuxjaxError(f"basis of attittud must be at least 1, not {basis}")

    def init(names: tuple[str, ...], trunk: Any) -> MainGradients:
        rows = jax.tree.map(lambda x: jnp.zeros((basis, *x.shape), wide(x)), trunk)
        return MainGradients(rows, jnp.zeros((), jnp.int32))

    def update(signals: Signals, state: MainGradients) -> tuple[Update, MainGradients]:
        main, *others = gradients_in(signals)
        new = _remember(state, main, basis)
        to_basis = _singular_vectors(new.rows)
        q = to_basis.T @ _products(new.rows, main)
        square = inner(main, main)

        def changed(other: Any) -> Any:
            p = to_basis.T @ _products(new.rows, other)
            factors = jnp.where(p * q > 0, helpful, harmful).astype(p.dtype)
            of_rows = to_basis @ ((factors - orthogonal) * p)
            tree = jax.tree.map(
                lambda g, r: orthogonal * g + jnp.tensordot(of_rows, r, axes=1).astype(g.dtype), other, new.rows
            )
            missing = quotient(jnp.sum(factors * p * q) - inner(main, tree), square)
            return jax.tree.map(lambda g, m: g + missing.astype(g.dtype) * m, tree, main)

        return summed([main, *others], [main, *map(changed, others)]), new

    return Weighting(init, update, frozenset({"gradients"}))


def _remember(state: MainGradients, main: Any, basis: int) -> MainGradients:
    """Returns the state with main's gradient in place of its oldest; a zero gradient is not remembered."""
    norm = jnp.sqrt(inner(main, main))
    place = state.seen % basis

    def leaf(rows: jax.Array, g: jax.Array) -> jax.Array:
        return jnp.where(norm > 0, rows.at[place].set(quotient(g.astype(rows.dtype), norm.astype(rows.dtype))), rows)

    return MainGradients(jax.tree.map(leaf, state.rows, main), state.seen + (norm > 0))


def _singular_vectors(rows: Any) -> jax.Array:
    """Returns T [basis, basis] such that column k of T holds v_k as a combination of the rows, 0 where it is left out.

    rows rows' = U S^2 U', hence V = rows' U S^-1 and T = U S^-1.
    """
    flat = [row.reshape(row.shape[0], -1) for row in jax.tree.leaves(rows)]
    squares, vectors = jnp.linalg.eigh(sum(_dot(x, x.T) for x in flat))
    kept = squares > SMALLEST_SHARE * squares[-1]
    inverse = jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, squares, 1)), 0)
    return vectors * inverse.reshape(1, -1)


def _products(rows: Any, tree: Any) -> jax.Array:
    """Returns [basis], the inner products of the rows with a tree."""
    pairs = zip(jax.tree.leaves(rows), jax.tree.leaves(tree), strict=True)
    products = [_dot(row.reshape(row.shape[0], -1), x.astype(row.dtype).reshape(-1)) for row, x in pairs]
    return jnp.stack(products).sum(axis=0)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    # Accelerators round float32 factors to fewer bits unless told not to.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


METHODS: dict[str, Method] = {
    "attittud": Method(
        attittud,
        "Dery et al. 2021, arXiv 2108.11346, section 3",
        frozenset({"main_first", "main_one", "heads_symmetric"}),
        "the authors' (ldery/ATTITTUD; gradients of single examples)",
    ),
}
