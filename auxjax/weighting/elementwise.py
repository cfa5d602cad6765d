"""Symmetric methods that choose among the K trunk gradients coordinate by coordinate.

The weights beside their direction are for the log: w_k = (g_k' . g_k) / ||g_k||^2, the share of g_k that is in g_k',
what the method has made of it; 0 for a zero gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from auxjax.errors import AuxjaxError
from auxjax.weighting.active_set import quotient
from auxjax.weighting.directions import gradients_in, wide
from auxjax.weighting.protocol import Method, Signals, Update, Weighting, combine, inner, no_state
from auxjax.weighting.scalarized import unless_alone

# From the values [K, ...] of one parameter tensor, and a key where there is one, to the factors [K, ...] on them.
Factors = Callable[[jax.Array, jax.Array | None], jax.Array]


def grad_drop(leak: float = 0.0, main_leak: float = 0.0) -> Weighting:
    """Gradient sign dropout: keeps in every coordinate the gradients of one sign, drawn by how pure that sign is.

    P = sum_k max(g_k, 0) / sum_k |g_k| = (1 + sum_k g_k / sum_k |g_k|) / 2, coordinate by coordinate; with probability
    P the positive gradients pass the gate (M_k = 1[g_k > 0]), else the negative ones: M_k = 1[g_k < 0].
    d = sum_k (l_k + (1 - l_k) M_k) g_k, where the leak l_k is `main_leak` for main and `leak` for the others: with
    `main_leak` 1 all of g_0 is in d. Without a leak its mean is sum_k |g_k| (P 1[g_k > 0] - (1 - P) 1[g_k < 0]). No
    state.

    Chen et al. 2020, arXiv 2010.06808, algorithm 1, with f the identity. Deviation: the paper masks the gradients by
    the activations of one layer, with the signs of these; here they are the trunk's parameters' own gradients, as in
    TorchJD. LibMTL masks activations; in SamsungLabs' library the leak is inverted.
    """
    for name, value in (("leak", leak), ("main_leak", main_leak)):
        if not 0 <= value <= 1:
            raise AuxjaxError(f"{name} of grad_drop must be between 0 and 1, not {value!r}")

    def factors(values: jax.Array, key: jax.Array | None) -> jax.Array:
        assert key is not None
        purity = quotient(jnp.maximum(values, 0).sum(axis=0), jnp.abs(values).sum(axis=0))
        positive = jax.random.uniform(key, purity.shape, purity.dtype) < purity
        passed = jnp.where(jnp.broadcast_to(positive, values.shape), values > 0, values < 0)
        leaks = jnp.full(len(values), leak, values.dtype).at[0].set(main_leak)
        leaks = leaks.reshape(-1, *[1] * purity.ndim)
        return leaks + (1 - leaks) * passed

    return _elementwise(factors)


def trimmed_mean(trim: int = 1) -> Weighting:
    """Trimmed mean: in every coordinate the mean of the K values less the `trim` largest and the `trim` smallest.

    d = sum_k M_k g_k / (K - 2 t), M_k = 1 where g_k is in between; among equal values on the edge the mask is shared
    out equally. t = min(trim, floor((K - 1) / 2)), so that two losses give their mean and three their median. No state.

    Yin et al. 2018, arXiv 1803.01498, definition 2, where gradients are those of machines. Deviation: t is bounded by
    K, where TorchJD raises an error.
    """
    if trim < 0:
        raise AuxjaxError(f"trim of trimmed_mean must be at least 0, not {trim!r}")

    def factors(values: jax.Array, key: jax.Array | None) -> jax.Array:
        size = len(values)
        cut = min(trim, (size - 1) // 2)
        ordered = jnp.sort(values, axis=0)
        kept = ordered[cut : size - cut]

        def share(value: jax.Array) -> jax.Array:
            """Returns, of all entries equal to the value, the fraction that is kept."""
            same = jnp.broadcast_to(value, values.shape)
            return jnp.sum(kept == same[: len(kept)], axis=0) / jnp.sum(ordered == same, axis=0)

        shares = jnp.stack([share(value) for value in values])
        return (shares / len(kept)).astype(values.dtype)

    return _elementwise(factors)


def _elementwise(factors: Factors) -> Weighting:
    """Returns the weighting whose direction is the sum of the gradients times such factors, which may be random."""

    def update(signals: Signals, state: Any) -> tuple[Update, Any]:
        gradients = gradients_in(signals)
        leaves, structure = jax.tree.flatten(gradients[0])
        keys = [None] * len(leaves) if signals.key is None else jax.random.split(signals.key, len(leaves))
        rows = zip(*(jax.tree.leaves(g) for g in gradients), strict=True)
        changed = [_changed(factors, row, key) for row, key in zip(rows, keys, strict=True)]
        trees = [jax.tree.unflatten(structure, [leaf[k] for leaf in changed]) for k in range(len(gradients))]
        shares = [quotient(inner(a, g), inner(g, g)) for a, g in zip(trees, gradients, strict=True)]
        weights = jnp.stack(shares)
        return Update(unless_alone(weights), combine(jnp.ones_like(weights), trees)), state

    return Weighting(no_state, update, frozenset({"gradients"}))


def _changed(factors: Factors, row: tuple[jax.Array, ...], key: jax.Array | None) -> jax.Array:
    values = jnp.stack(row)
    values = values.astype(wide(values))
    return (factors(values, key) * values).astype(row[0].dtype)


METHODS: dict[str, Method] = {
    "grad_drop": Method(
        grad_drop,
        "Chen et al. 2020, arXiv 2010.06808, algorithm 1",
        frozenset({"symmetric", "heads_symmetric"}),
        "TorchJD; LibMTL (of activations); SamsungLabs/MTL (leak inverted)",
    ),
    "trimmed_mean": Method(
        trimmed_mean,
        "Yin et al. 2018, arXiv 1803.01498, definition 2",
        frozenset({"symmetric", "heads_symmetric"}),
        "TorchJD",
    ),
}
