"""Lanczos' method for a symmetric operator that is known by its products, and the spectral density that it gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Product = Callable[[jax.Array], jax.Array]


class Tridiagonal(NamedTuple):
    """T = Q^T A Q by its diagonal [..., m] and what stands below it [..., m], of which the last is |A q - Q T e_m|."""

    diagonal: jax.Array
    below: jax.Array


class Ritz(NamedTuple):
    """Ritz values [m], ascending; their weights in the starting vector, which sum to 1; and the residual norms."""

    values: np.ndarray
    weights: np.ndarray
    residuals: np.ndarray


def lanczos(
    product: Product, start: jax.Array, steps: int, key: jax.Array, count: jax.Array | int | None = None
) -> Tridiagonal:
    """Returns the tridiagonal matrix of `steps` products from `start`, a unit vector float[n]; steps <= n.

    A q_j = b_(j-1) q_(j-1) + a_j q_j + b_j q_(j+1). Each new vector is made orthogonal to all earlier ones, twice
    (Golub & Van Loan, Matrix Computations, section 10.3), so that rounding brings no copies of eigenvalues; that keeps
    steps x n numbers. Where the Krylov space is exhausted, b_j = 0 and a random vector orthogonal to it goes on: the
    quadrature of `start` ends there, and what is found later belongs to the rest of the space. With a `count`, which
    may be traced, only the first `count` products are made, and the rest is zero.
    """
    # Below it, what is left of a vector is rounding.
    tolerance = 32 * jnp.finfo(start.dtype).eps

    def advance(
        j: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        basis, diagonal, below, scale = carry
        image = product(basis[j])
        entry = _dot(basis[j], image)
        rest = _orthogonal(basis, image)
        norm = jnp.linalg.norm(rest)
        scale = jnp.maximum(scale, jnp.abs(entry) + norm)
        exhausted = norm <= tolerance * scale

        def fresh() -> jax.Array:
            vector = _orthogonal(basis, jax.random.normal(jax.random.fold_in(key, j), start.shape, start.dtype))
            return vector / jnp.linalg.norm(vector)

        following = jax.lax.cond(exhausted, fresh, lambda: rest / norm)
        basis = basis.at[j + 1].set(following, mode="drop")
        return basis, diagonal.at[j].set(entry), below.at[j].set(jnp.where(exhausted, 0, norm)), scale

    zeros = jnp.zeros(steps, start.dtype)
    basis = jnp.zeros((steps, len(start)), start.dtype).at[0].set(start)
    carry, stop = (basis, zeros, zeros, jnp.zeros((), start.dtype)), steps if count is None else count
    _, diagonal, below, _ = jax.lax.fori_loop(0, stop, advance, carry)
    return Tridiagonal(diagonal, below)


def ritz(matrix: Tridiagonal) -> Ritz:
    """Returns the eigenvalues of one tridiagonal matrix; an eigenvalue of A lies within its residual of each.

    The residual of a Ritz pair is b_m |s_m|, s its eigenvector of T. Rounding in the products adds to it.
    """
    diagonal, below = (np.asarray(x, np.float64) for x in matrix)
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(below[:-1], 1) + np.diag(below[:-1], -1))
    return Ritz(values, vectors[0] ** 2, np.abs(below[-1] * vectors[-1]))


def density(found: list[Ritz], points: int = 256, width: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    """Returns x and y, float64[points], of the spectral density of A, of integral 1.

    Stochastic Lanczos quadrature (Ghorbani, Krishnan & Xiao 2019, arXiv 1901.10159, section 2): the mean over random
    starting vectors of sum_i w_i N(x; t_i, s^2), t_i the Ritz values and w_i their weights. s is `width` of the range
    of the Ritz values, where the paper has a fixed narrow variance on a finer grid.
    """
    low, high = min(r.values[0] for r in found), max(r.values[-1] for r in found)
    spread = width * ((high - low) or max(abs(high), 1.0))
    x = np.linspace(low - 4 * spread, high + 4 * spread, points)
    y = np.zeros(points)
    for values, weights, _ in found:
        bells = np.exp(-0.5 * ((x[:, None] - values[None]) / spread) ** 2) / (spread * np.sqrt(2 * np.pi))
        y += bells @ weights / len(found)
    return x, y


def rademacher(key: jax.Array, like: jax.Array) -> jax.Array:
    """Returns a unit vector v of random signs, of the shape [n] and dtype of `like`.

    n v^T A v is Hutchinson's estimate of tr A, of variance 2 sum_(i != j) A_ij^2 (Hutchinson 1989, Communications in
    Statistics 18(3); Avron & Toledo 2011, J. ACM 58(2), section 3).
    """
    return jax.random.rademacher(key, like.shape, like.dtype) / jnp.sqrt(jnp.asarray(like.size, like.dtype))


def _orthogonal(basis: jax.Array, vector: jax.Array) -> jax.Array:
    """Returns the part of a vector that is orthogonal to the rows of `basis`; a second round removes the rounding."""
    for _ in range(2):
        vector = vector - _dot(_dot(basis, vector), basis)
    return vector


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision="highest")
