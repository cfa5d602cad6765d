"""What the diagnostics of a trained network read: its losses and its features, in inference mode.

BatchNorm takes its running averages and dropout is off, so that a loss is a mean over examples that stand alone; the
parameters are those being trained, not their moving average.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from auxjax.errors import AuxjaxError, unknown
from auxjax.gradients import decide
from auxjax.losses import head_losses
from auxjax.state import Batch, TrainState
from auxjax.step import backward, step_key
from auxjax.taps import capture_filter, list_taps, method_of, mode_flags, parse, pick, reads, unknown_tap


def loss_names(state: TrainState) -> tuple[str, ...]:
    """Returns the K losses by name, main first, then "total"."""
    return (*state.program.objectives, "total")


def mean_losses(state: TrainState, params: Any, batch: Batch, pieces: int = 1) -> jax.Array:
    """Returns the K mean losses float32[K] at `params`, which has both halves; `pieces` as for `split`."""
    if pieces == 1:
        sums, counts = loss_sums(state, params, batch)
    else:
        parts = jax.lax.map(lambda piece: loss_sums(state, params, piece), split(batch, pieces))
        sums, counts = jax.tree.map(lambda x: x.sum(0), parts)
    return sums / jnp.maximum(counts, 1)


def loss_sums(state: TrainState, params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Returns the K sums of losses and the K counts, float32[K] each."""
    program = state.program
    outputs = apply(state, params, batch, program.names)
    pairs = head_losses(outputs, batch, program.objectives).values()
    sums, counts = (jnp.stack(column) for column in zip(*pairs, strict=True))
    return sums, counts


def apply(state: TrainState, params: Any, batch: Batch, heads: Sequence[str]) -> dict[str, jax.Array]:
    """Returns the outputs of main and of `heads`."""
    program = state.program
    inputs = (batch[name] for name in program.inputs)
    outputs: dict[str, jax.Array] = program.attached.apply(
        {"params": params, **state.statistics}, *inputs, train=False, heads=heads, step=state.step
    )
    return outputs


def split(batch: Batch, pieces: int) -> Batch:
    """Returns the batch as `pieces` equal ones along a new first axis; raises AuxjaxError where they are not equal."""
    size = len(next(iter(batch.values())))
    if pieces < 1 or size % pieces:
        raise AuxjaxError(f"a batch of {size} cannot be cut into {pieces} equal pieces")
    return {k: v.reshape(pieces, -1, *v.shape[1:]) for k, v in batch.items()}


def coefficients(state: TrainState, batch: Batch, loss: str) -> jax.Array:
    """Returns float32[K], the weights that make `loss` of the K losses: 1 and zeros, or the step's for "total".

    Those weights are the heads' own times the weighting's, from losses in inference mode; from a weighting that looks
    at gradients they are those of a training step on the batch. Raises AuxjaxError for an unknown loss.
    """
    names = loss_names(state)
    if loss not in names:
        raise unknown("loss", loss, names)
    if loss != "total":
        return jax.nn.one_hot(names.index(loss), len(names) - 1)
    return _total(state, batch)


@jax.jit
def _total(state: TrainState, batch: Batch) -> jax.Array:
    program = state.program
    if program.weighting.needs & {"gramian", "gradients", "held_out"}:
        weights: jax.Array = backward(program)(state, batch, step_key(state), None).weights
        return weights
    losses = mean_losses(state, state.params, batch) if "losses" in program.weighting.needs else None
    return decide(state, losses)[0]


def layer_names(state: TrainState, batch: Batch, layers: Sequence[str] | None = None) -> tuple[str, ...]:
    """Returns the taps to read: those given, or by default the outputs of the model's own submodules, in order.

    By default those count that are float[B, ...] of rank 2 and more. Raises AuxjaxError for a tap that the model does
    not have, and where by default there is none.
    """
    model = state.program.attached.model
    inputs = [jax.ShapeDtypeStruct(batch[name].shape, batch[name].dtype) for name in state.program.inputs]
    taps = list_taps(model, *inputs)
    if layers is not None:
        for at in layers:
            if not any(reads(at, tap) for tap in taps):
                raise unknown_tap(at, model, *inputs)
        return tuple(layers)
    own = {name: tap.shape for name, tap in taps.items() if "/" not in name and "." not in name}
    found = tuple(name for name, shape in own.items() if len(shape) > 1 and shape[0] == inputs[0].shape[0])
    if not found:
        raise AuxjaxError(f"{type(model).__name__} has no submodule with an output [B, ...]; name the taps in layers")
    return found


def features(state: TrainState, batch: Batch, layers: Sequence[str]) -> dict[str, jax.Array]:
    """Returns the outputs of `layers` by tap, float[B, ...]."""
    model = state.program.attached.model
    variables = {"params": state.params, **state.statistics}
    _, updates = model.apply(
        {collection: value["model"] for collection, value in variables.items() if value["model"]},
        *(batch[name] for name in state.program.inputs), mutable=["intermediates"],
        capture_intermediates=capture_filter({parse(at)[:2] for at in layers}),
        **mode_flags(method_of(model, None), False, {}),
    )  # fmt: skip
    intermediates: Mapping[str, Any] = updates.get("intermediates", {})
    return {at: pick(intermediates, at) for at in layers}
