"""The variance of one example's gradient and the noise scale, by loss and layer, from the parts of one batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from auxjax.diagnostics.by_loss import Names, inner, listed, loss_gradients, names_of, pull_losses, pull_rows
from auxjax.gradients import microbatches
from auxjax.state import Batch, TrainState
from auxjax.step import step_key
from auxjax.weighting.protocol import combine

# Parts of a batch: more give less noisy estimates, and cost no more arithmetic but smaller operations.
PARTS = 8


def variance(state: TrainState, batch: Batch, axis_name: str | None = None, parts: int = PARTS) -> dict[str, jax.Array]:
    """Returns unbiased estimates of tr(Cov) of one example's gradient and of |mean gradient|^2, and their ratio.

    The batch is cut into m parts; part i has n_i of a loss's n examples and the mean gradient g_i, and g is the mean
    over the batch. Then (McCandlish et al. 2018, arXiv 1812.06162, appendix A.1, where all n_i are equal)

        S = (sum_i n_i |g_i|^2 - n |g|^2) / (m - 1),    G = |g|^2 - S / n,    noise scale B = S / G.

    `trace` (S), `norm_squared` (G) and `noise_scale` are float32[K + 1]: of the K losses as they are, without a
    weight, and of the weighted total, which takes one example to weigh what it weighs in main's loss; a direction
    that a weighting makes in place of a sum is left out of account. `trace_by_layer` and `norm_squared_by_layer`
    float32[K + 1, L] add up to them. `minibatch_trace` is S / n, the variance of a minibatch's gradient. NaN where
    there are fewer than two parts with examples; G of a noisy batch may be negative, and is then no estimate of a
    square. BatchNorm normalises every part by itself, as a training step of that size would: its examples are then
    not independent, and S is that of batches of n / m examples. The noise of dropout counts as an example's.
    """
    layers, weights = names_of(state, batch).layers, loss_gradients(state, batch, axis_name).weights
    size = next(iter(batch.values())).shape[0]
    parts = min(max(parts, state.program.accumulate), size)
    whole = {name: array[: size // parts * parts] for name, array in batch.items()}
    key = step_key(state, axis_name)

    def add(carry: tuple[Any, ...], piece_and_index: tuple[Batch, jax.Array]) -> tuple[tuple[Any, ...], None]:
        piece, index = piece_and_index
        passes = pull_losses(state, state.statistics, piece, jax.random.fold_in(key, index), axis_name)
        rows = pull_rows(passes, axis_name)
        counts = passes.extras[1]
        return _welford(carry, (*rows, combine(weights, rows)), jnp.append(counts, counts[0]), layers), None

    size_of_rows = len(weights) + 1
    zeros = jnp.zeros(size_of_rows)
    means = (jax.tree.map(jnp.zeros_like, state.params["model"]),) * size_of_rows
    start = (means, jnp.zeros((size_of_rows, len(layers))), zeros, zeros)
    found, _ = jax.lax.scan(add, start, (microbatches(whole, parts), jnp.arange(parts)))
    return _estimates(*found, layers)


def record(names: Names, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what `variance` measured as a record for JSON, None for NaN."""
    labels = {"losses": [*names.losses, "total"], "layers": list(names.layers)}
    return {"diagnostic": "variance"} | labels | listed(values)


def _welford(carry: tuple[Any, ...], rows: tuple[Any, ...], counts: jax.Array, layers: tuple[str, ...]) -> Any:
    """Returns the means, the sums of n_i |g_i - g|^2 by layer, the counts and the parts after one more part.

    Welford's update: a difference of large squares would lose the digits of a small variance.
    """
    means, spreads, seen, parts = carry
    new = seen + counts
    share = counts / jnp.maximum(new, 1)
    moved, added = [], []
    for k, (mean, row) in enumerate(zip(means, rows, strict=True)):
        before = jax.tree.map(jnp.subtract, row, mean)
        mean = jax.tree.map(lambda m, d, s=share[k]: m + s.astype(d.dtype) * d, mean, before)
        after = jax.tree.map(jnp.subtract, row, mean)
        added.append(counts[k] * jnp.stack([inner(before[layer], after[layer]) for layer in layers]))
        moved.append(mean)
    return tuple(moved), spreads + jnp.stack(added), new, parts + (counts > 0)


def _estimates(
    means: tuple[Any, ...], spreads: jax.Array, counts: jax.Array, parts: jax.Array, layers: tuple[str, ...]
) -> dict[str, jax.Array]:
    squares = jnp.stack([jnp.stack([inner(mean[layer], mean[layer]) for layer in layers]) for mean in means])
    apart, n = (x.reshape(-1, 1) for x in (jnp.where(parts > 1, parts - 1, jnp.nan), jnp.maximum(counts, 1)))
    trace = spreads / apart
    norm_squared = squares - trace / n
    total, mean = trace.sum(1), norm_squared.sum(1)
    return {
        "trace": total, "norm_squared": mean, "noise_scale": total / mean, "minibatch_trace": total / n.reshape(-1),
        "trace_by_layer": trace, "norm_squared_by_layer": norm_squared,
    }  # fmt: skip
