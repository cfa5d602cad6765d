"""Centred kernel alignment: how alike the layers of a network, or of two networks, see the same examples."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from auxjax.diagnostics.by_loss import listed
from auxjax.diagnostics.inference import features, layer_names
from auxjax.errors import AuxjaxError
from auxjax.state import Batch, TrainState


def cka(
    state: TrainState, batch: Batch, *, layers: Sequence[str] | None = None, other: TrainState | None = None,
    other_layers: Sequence[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Returns the record of linear CKA between layers on one batch, in [0, 1].

    CKA(X, Y) = |Y^T X|^2 / (|X^T X| |Y^T Y|) in Frobenius norms of centred features (Kornblith et al. 2019, arXiv
    1905.00414, section 3), maps flattened. It is too high where examples are far fewer than features: see `cka_over`.
    Rows are `layers` of `state`, by default its submodules' outputs; columns are those of `state`, or of `other`, under
    `other_layers`, by default the same. A layer that says the same of every example has None.
    Raises AuxjaxError for a tap that the model does not have.
    """
    return _record(*_sums([batch], state, layers, other, other_layers, biased=True))


def cka_over(
    state: TrainState, batches: Iterable[Batch], *, layers: Sequence[str] | None = None,
    other: TrainState | None = None, other_layers: Sequence[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Returns the same from many batches: sums over them of the unbiased HSIC take the place of the norms.

    HSIC_1 = (tr KL + 1'K1 1'L1 / ((n-1)(n-2)) - 2 1'KL1 / (n-2)) / (n (n-3)), K and L Gram matrices with zero
    diagonals (Song et al. 2012, JMLR 13, equation 5; Nguyen, Raghu & Kornblith 2021, arXiv 2010.15327, section 3). It
    does not depend on the batch size; an estimate may leave [0, 1].
    Raises AuxjaxError for a tap that the model does not have, batches of fewer than four examples, and no batch.
    """
    return _record(*_sums(batches, state, layers, other, other_layers, biased=False))


def records(state: TrainState, batch: Batch, **keywords: Any) -> list[dict[str, Any]]:
    """Returns the record of one batch."""
    return [cka(state, batch, **keywords)]


def _sums(
    batches: Iterable[Batch], state: TrainState, layers: Sequence[str] | None, other: TrainState | None,
    other_layers: Sequence[str] | None, biased: bool,
) -> tuple[tuple[str, ...], tuple[str, ...] | None, np.ndarray, int]:  # fmt: skip
    """Returns the names of rows and columns and HSIC between all layers, summed over batches, [L + M, L + M]."""
    total: Any = None
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    for batch in batches:
        size = len(batch[state.program.inputs[0]])
        if size < 4 and not biased:
            raise AuxjaxError(f"the unbiased CKA needs batches of at least four examples, not {size}")
        if total is None:
            rows = layer_names(state, batch, layers)
            if other is not None:
                columns = layer_names(other, batch, layers if other_layers is None else other_layers)
        grams = _grams(state, batch, rows)
        if other is not None and columns is not None:
            grams = jnp.concatenate([grams, _grams(other, batch, columns)])
        found = hsic(np.asarray(grams), biased)
        total = found if total is None else total + found
    if total is None:
        raise AuxjaxError("cka_over needs at least one batch")
    return rows, columns, total, len(rows)


def _record(rows: tuple[str, ...], columns: tuple[str, ...] | None, found: np.ndarray, count: int) -> dict[str, Any]:
    own = np.sqrt(np.maximum(np.diag(found), 0.0))
    scale = np.outer(own, own)
    matrix = np.divide(found, scale, out=np.full_like(found, np.nan), where=scale > 0)
    block = matrix[:count, :count] if columns is None else matrix[:count, count:]
    record = {
        "diagnostic": "cka",
        "layers": list(rows),
        "cka": listed(block),
    }
    return record if columns is None else record | {"other_layers": list(columns)}


@functools.partial(jax.jit, static_argnums=2)
def _grams(state: TrainState, batch: Batch, layers: tuple[str, ...]) -> jax.Array:
    """Returns the Gram matrix of each layer's features, float32[L, n, n]; a mean is removed first, for accuracy."""

    def gram(x: jax.Array) -> jax.Array:
        x = x.reshape(len(x), -1).astype(jnp.promote_types(x.dtype, jnp.float32))
        x = x - x.mean(0, keepdims=True)
        return jnp.matmul(x, x.T, precision="highest")

    return jnp.stack([gram(x) for x in features(state, batch, layers).values()])


def hsic(grams: np.ndarray, biased: bool) -> np.ndarray:
    """Returns HSIC between all pairs of Gram matrices [L, n, n] of centred features, to a factor, float64[L, L]."""
    grams = np.array(grams, np.float64)
    size = grams.shape[1]
    if not biased:
        grams[:, range(size), range(size)] = 0.0
    flat, rows = grams.reshape(len(grams), -1), grams.sum(2)
    if biased:
        return flat @ flat.T
    sums = rows.sum(1)
    whole = np.outer(sums, sums) / ((size - 1) * (size - 2))
    return (flat @ flat.T + whole - 2 * rows @ rows.T / (size - 2)) / (size * (size - 3))
