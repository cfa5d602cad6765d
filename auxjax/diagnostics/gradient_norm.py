"""The gradient norm of each layer: where a deep network's early layers starve, and whether heads feed them."""

from __future__ import annotations

import jax
import optax

from auxjax.gradients import gradients
from auxjax.state import Batch, TrainState


def by_layer(state: TrainState, batch: Batch) -> dict[str, float]:
    """Returns the L2 norm of the weighted loss's gradient with respect to each top-level submodule of the model.

    Layers come in the order of the parameters' names with numbers counted as numbers; heads' own parameters are left
    out. The dropout mask is that of the state's step.
    """
    norms = _norms(state, batch)
    return {layer: float(norms[layer]) for layer in sorted(norms, key=_natural)}


@jax.jit
def _norms(state: TrainState, batch: Batch) -> dict[str, jax.Array]:
    grads = gradients(state, batch, jax.random.fold_in(state.key, state.step)).grads
    return {layer: optax.tree.norm(grad) for layer, grad in grads["model"].items()}


def _natural(name: str) -> tuple[object, ...]:
    stem, _, number = name.rpartition("_")
    return (stem == "", stem, int(number)) if number.isdigit() else (True, name, 0)
