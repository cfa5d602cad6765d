"""How the gradients of the losses agree, layer by layer: cosine, magnitude similarity, and how often they conflict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from auxjax.diagnostics.by_loss import Names, listed, loss_gradients, names_of
from auxjax.state import Batch, TrainState


def similarity(state: TrainState, batch: Batch, axis_name: str | None = None) -> dict[str, jax.Array]:
    """Returns how the K gradients agree on each of L layers, and last over all of them.

    For the gradients a and b of two losses on what both reach (Yu et al. 2020, PCGrad, arXiv 2001.06782, section 2,
    definitions 1 and 2): `cosine` float32[L + 1, K, K] is a.b / (|a| |b|), and `magnitude` float32[L + 1, K, K] is
    2 |a| |b| / (|a|^2 + |b|^2) of the weighted gradients (1: of equal length). `conflict` float32[K, K] is the
    fraction of the pair's layers with a negative cosine. All are NaN where either gradient is zero: no layer above
    the shallower tap of a pair says anything of it. The paper has one shared trunk; here every pair has its own.
    """
    layers, found = names_of(state, batch).layers, loss_gradients(state, batch, axis_name)
    grams, squares = zip(*(_products(found.rows, found.reach, layer) for layer in layers), strict=True)
    gram, own = (jnp.concatenate([jnp.stack(x), sum(x)[None]]) for x in (grams, squares))
    cosine = gram / jnp.sqrt(own) / jnp.sqrt(jnp.swapaxes(own, 1, 2))
    lengths = jnp.sqrt(own) * jnp.abs(found.weights).reshape(1, -1, 1)
    other = jnp.swapaxes(lengths, 1, 2)
    # As a ratio of lengths, since squares of small gradients underflow.
    ratio = jnp.minimum(lengths, other) / jnp.maximum(lengths, other)
    magnitude = jnp.where(ratio > 0, 2 * ratio / (1 + ratio**2), jnp.nan)
    by_layer = cosine[:-1]
    said = jnp.isfinite(by_layer)
    conflict = (said & (by_layer < 0)).sum(0) / said.sum(0)
    return {"cosine": jnp.clip(cosine, -1, 1), "magnitude": magnitude, "conflict": conflict}


def record(names: Names, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what `similarity` measured as a record for JSON, None for NaN."""
    labels = {"layers": [*names.layers, "all"], "losses": list(names.losses)}
    return {"diagnostic": "similarity"} | labels | listed(values)


def _products(rows: Sequence[Any], reach: Sequence[Any], layer: str) -> tuple[jax.Array, jax.Array]:
    """Returns [K, K] inner products on a layer, and [k, j] the squares of gradient k on the arrays that j reaches."""
    size = len(rows)
    gram, own = jnp.zeros((size, size)), jnp.zeros((size, size))
    columns = zip(*(jax.tree.leaves(row[layer]) for row in rows), strict=True)
    flags = zip(*(jax.tree.leaves(reaches[layer]) for reaches in reach), strict=True)
    for arrays, reached in zip(columns, flags, strict=True):
        flat = jnp.stack([array.ravel() for array in arrays])
        products = jnp.matmul(flat, flat.T, precision=jax.lax.Precision.HIGHEST)
        gram += products
        own += jnp.diag(products).reshape(-1, 1) * jnp.array([reached], products.dtype)
    return gram, own
