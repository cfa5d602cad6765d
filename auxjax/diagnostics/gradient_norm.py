"""The gradient norm of each layer, split by loss: where early layers starve, and which head feeds which layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from auxjax.diagnostics.by_loss import Names, listed, loss_gradients, names_of, square
from auxjax.gradients import gradients
from auxjax.state import Batch, TrainState
from auxjax.step import step_key


def gradient_norm(state: TrainState, batch: Batch, axis_name: str | None = None) -> dict[str, jax.Array]:
    """Returns the L2 norms of the K losses' gradients on each of the model's L layers, and those of their total.

    `unweighted` float32[K, L] is |d loss_k / d layer_l| and `weights` float32[K] the current weights w; `norm`
    float32[K + 1, L] is w_k times that, and in its last row the norm of the gradient that the step takes: the norm of
    the weighted sum, or of the direction that a weighting makes of it, never the sum of norms. It is exactly 0 above a
    head's tap. BatchNorm and dropout are as in the training step; a head's own parameters are left out.
    """
    layers, found = names_of(state, batch).layers, loss_gradients(state, batch, axis_name)
    unweighted = jnp.stack([_norms(row, layers) for row in found.rows])
    weighted = unweighted * found.weights.reshape(-1, 1)
    norm = jnp.concatenate([weighted, _norms(found.total, layers).reshape(1, -1)])
    return {"norm": norm, "unweighted": unweighted, "weights": found.weights}


def record(names: Names, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what `gradient_norm` measured as a record for JSON."""
    labels = {"layers": list(names.layers), "losses": [*names.losses, "total"]}
    return {"diagnostic": "gradient_norm"} | labels | listed(values)


def by_layer(state: TrainState, batch: Batch) -> dict[str, float]:
    """Returns the L2 norm of the weighted loss's gradient on each layer, in the order of execution; one backward pass.

    Heads' own parameters are left out. The dropout mask is that of the state's step.
    """
    layers = names_of(state, batch).layers
    return dict(zip(layers, _total_norms(state, batch).tolist(), strict=True))


@jax.jit
def _total_norms(state: TrainState, batch: Batch) -> jax.Array:
    return _norms(gradients(state, batch, step_key(state)).grads["model"], names_of(state, batch).layers)


def _norms(tree: Any, layers: tuple[str, ...]) -> jax.Array:
    return jnp.stack([jnp.sqrt(square(tree[layer])) for layer in layers])
