"""Symmetric methods in closed form, by eigenvalues of the Gramian G of the K trunk gradients or of their cosines.

n_k = ||g_k||, u_k = g_k / n_k, and C is the Gramian of the u_k. A main loss without company always has the weight 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from auxjax.errors import unknown
from auxjax.weighting.active_set import quotient
from auxjax.weighting.gramian import of_gramian
from auxjax.weighting.protocol import Method, Weighting
from auxjax.weighting.quadratic import units

SCALES = ("min", "median", "rmse")


def imtl_g() -> Weighting:
    """Impartial learning of gradients: d has one and the same projection on every unit gradient.

    v = y / n with C y = 1, w = v / sum v. Where sum v < 0, d makes all losses rise alike. Zero gradients have weight 0.
    Where sum v = 0 within rounding, the weights are 1 / K. No state.

    Liu et al. 2021, Towards Impartial Multi-task Learning (ICLR), section 3.1. Of linearly dependent gradients y is the
    least-squares solution of least length, and directions of C under 10 units of rounding count as none. TorchJD agrees
    where gradients are independent; of others it has the least squares of G v = n.
    """

    def weights(gramian: jax.Array) -> jax.Array:
        products, norms = units(gramian)
        values = quotient(_equalising(products, norms), norms)
        total, size = values.sum(), jnp.abs(values).sum()
        enough = jnp.abs(total) > 10 * jnp.finfo(values.dtype).eps * size
        return jnp.where(enough, values / jnp.where(enough, total, 1.0), 1 / len(values))

    return of_gramian(weights)


def config() -> Weighting:
    """ConFIG: along the direction with equal cosines to all gradients, as far as they together project on it.

    d = (sum_k g_k . e) e, e = U^+ 1 / ||U^+ 1||, U^+ the pseudo-inverse of the matrix of rows u_k: with C y = 1,
    w = (y / n) sum_k n_k (C y)_k / y'Cy. Zero gradients have the weight 0. No state.

    Liu et al. 2024, arXiv 2408.11104, equation 2, with equal direction weights. Deviation: squared singular values of
    under 10 units of rounding of the largest count as none, as a Gramian shows no smaller ones. TorchJD and the authors
    (tum-pbs/ConFIG) agree.
    """

    def weights(gramian: jax.Array) -> jax.Array:
        products, norms = units(gramian)
        values = _equalising(products, norms)
        along = products @ values
        return quotient(values, norms) * quotient(norms @ along, values @ along)

    return of_gramian(weights)


def aligned_mtl(scale: str = "min") -> Weighting:
    """Aligned-MTL: the mean of the gradients after their principal components have been brought to one length.

    w = sqrt(s) V L^(-1/2) V' (1 / K), with the eigenvalues L and vectors V of G, and s their least ("min"), the lower
    median ("median") or the mean ("rmse"). Eigenvalues under 10 K units of rounding of the largest count as none. No
    state.

    Senushkin et al. 2023, arXiv 2305.19000, algorithm 1. TorchJD agrees, with K units; LibMTL calls a function that
    torch no longer has.
    """
    if scale not in SCALES:
        raise unknown("scale of aligned_mtl", scale, SCALES)

    def weights(gramian: jax.Array) -> jax.Array:
        size = len(gramian)
        values, vectors = jnp.linalg.eigh(quotient(gramian, jnp.trace(gramian)))
        kept = values > 10 * size * jnp.finfo(values.dtype).eps * values.max()
        # Ascending: those that are left out come first.
        rank = kept.sum()
        of_all = {
            "min": values[jnp.minimum(size - rank, size - 1)],
            "median": values[jnp.minimum(size - rank + (rank - 1) // 2, size - 1)],
            "rmse": quotient(jnp.where(kept, values, 0.0).sum(), rank.astype(values.dtype)),
        }
        factors = jnp.where(kept, jnp.sqrt(quotient(of_all[scale], values)), 0.0)
        balanced = vectors @ (factors * (vectors.T @ jnp.full_like(values, 1 / size)))
        return jnp.where(rank > 0, balanced, 1 / size)

    return of_gramian(weights)


def _equalising(products: jax.Array, norms: jax.Array) -> jax.Array:
    """Returns y = C^+ 1, and 0 for zero gradients."""
    values, vectors = jnp.linalg.eigh(products)
    kept = values > 10 * jnp.finfo(values.dtype).eps * values.max()
    ones = (norms > 0).astype(values.dtype)
    return ones * (vectors @ jnp.where(kept, quotient(vectors.T @ ones, values), 0.0))


_SYMMETRIC = frozenset({"symmetric", "heads_symmetric"})
METHODS: dict[str, Method] = {
    "imtl_g": Method(imtl_g, "Liu et al. 2021 (IMTL), ICLR, section 3.1", _SYMMETRIC, "LibMTL, TorchJD, nash-mtl"),
    "config": Method(config, "Liu et al. 2024, arXiv 2408.11104, equation 2", _SYMMETRIC, "TorchJD, tum-pbs/ConFIG"),
    "aligned_mtl": Method(
        aligned_mtl,
        "Senushkin et al. 2023, arXiv 2305.19000, algorithm 1",
        _SYMMETRIC,
        "TorchJD; LibMTL (does not run on a current torch)",
    ),
}
