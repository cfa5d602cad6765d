"""One weighted backward pass: a forward pass, K losses, their weights, and the gradient of the weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from auxjax.losses import head_losses
from auxjax.metrics import head_metrics
from auxjax.state import Batch, TrainState
from auxjax.weighting.protocol import Signals


class Pass(NamedTuple):
    """What the passes over one batch leave: K global losses and weights, gradients, statistics, correct answers.

    The weights are the heads' own times the weighting's. Losses and gradients are summed over devices.
    """

    losses: jax.Array
    weights: jax.Array
    weighting_state: Any
    grads: Any
    statistics: Any
    hits: dict[str, dict[str, jax.Array]]


def gradients(state: TrainState, batch: Batch, key: jax.Array, axis_name: str | None = None) -> Pass:
    """One forward pass, K losses, and one pullback of their weights: the gradient of the weighted sum."""

    def losses_of(params: Any) -> tuple[jax.Array, tuple[Any, Any]]:
        sums, counts, extras = forward(state, params, state.statistics, batch, key)
        return sums / jnp.maximum(psum(counts, axis_name), 1), extras

    shares, pullback, (statistics, hits) = jax.vjp(losses_of, state.params, has_aux=True)
    losses = psum(shares, axis_name)
    weights, weighting_state = decide(state, losses)
    (grads,) = pullback(weights.astype(shares.dtype))
    return Pass(losses, weights, weighting_state, psum(grads, axis_name), statistics, hits)


def decide(state: TrainState, losses: jax.Array | None) -> tuple[jax.Array, Any]:
    """Returns the K weights, the heads' own times the weighting's, from losses alone, and the weighting's new state."""
    given = signals(state, losses)
    update, weighting_state = state.program.weighting.update(given, state.weighting_state)
    return own_weights(state) * update.weights, weighting_state


def accumulated_gradients(state: TrainState, batch: Batch, key: jax.Array, axis_name: str | None) -> Pass:
    """The same from microbatches one after another; every loss keeps the count of the whole batch.

    BatchNorm normalises each microbatch by itself and moves its averages once per microbatch, as everywhere.
    """
    pieces = state.program.accumulate
    # Counts depend on masks and shapes alone, so the compiler drops the forward pass that they come with.
    counts = psum(forward(state, state.params, state.statistics, batch, key)[1], axis_name)
    weights, weighting_state = decide(state, None)

    def add(carry: tuple[Any, ...], piece_and_index: tuple[Batch, jax.Array]) -> tuple[tuple[Any, ...], None]:
        losses, grads, hits, statistics = carry
        piece, index = piece_and_index

        def losses_of(params: Any) -> tuple[jax.Array, tuple[Any, Any]]:
            sums, _, extras = forward(state, params, statistics, piece, jax.random.fold_in(key, index))
            return sums / jnp.maximum(counts, 1), extras

        share, pullback, (statistics, more_hits) = jax.vjp(losses_of, state.params, has_aux=True)
        (more_grads,) = pullback(weights.astype(share.dtype))
        sums = jax.tree.map(jnp.add, (losses, grads, hits), (share, more_grads, more_hits))
        return (*sums, statistics), None

    no_hits = {name: {"correct": jnp.zeros(()), "count": jnp.zeros(())} for name in state.program.objectives}
    start = (jnp.zeros_like(counts), jax.tree.map(jnp.zeros_like, state.params), no_hits, state.statistics)
    (losses, grads, hits, statistics), _ = jax.lax.scan(add, start, (microbatches(batch, pieces), jnp.arange(pieces)))
    losses, grads = psum((losses, grads), axis_name)
    return Pass(losses, weights, weighting_state, grads, statistics, hits)


def forward(
    state: TrainState, params: Any, statistics: Any, batch: Batch, key: jax.Array
) -> tuple[jax.Array, jax.Array, tuple[Any, Any]]:
    """Returns K sums of losses, K counts, and what else the pass leaves: new statistics and correct answers."""
    outputs, updates = apply(state, params, statistics, batch, key)
    sums, counts, extras = measure(state, statistics, batch, outputs, updates)
    return jnp.stack(sums), jnp.stack(counts), extras


def apply(
    state: TrainState,
    params: Any,
    statistics: Any,
    batch: Batch,
    key: jax.Array,
    also: tuple[str, ...] = (),
    feedback: Mapping[str, Any] | None = None,
) -> tuple[dict[str, jax.Array], Any]:
    """Returns the outputs of main and the heads, and every collection that the pass changed, and those in `also`."""
    program = state.program

    def passed(params: Any, statistics: Any, inputs: Any, key: jax.Array, feedback: Any) -> Any:
        return program.attached.apply(
            {"params": params, **statistics}, *inputs, train=True, heads=program.names, rngs={"dropout": key},
            mutable=(*(tuple(statistics) or ("batch_stats",)), *also), step=state.step, feedback=feedback,
        )  # fmt: skip

    inputs = [batch[name] for name in program.inputs]
    result: tuple[dict[str, jax.Array], Any] = rematerialised(passed, program.remat)(
        params, statistics, inputs, key, feedback
    )
    return result


def rematerialised(function: Callable[..., Any], remat: str) -> Callable[..., Any]:
    """Returns `function`, what `remat` (state.REMAT) names being computed again in its backward pass."""
    if remat == "none":
        return function
    return jax.checkpoint(function, policy=_is_product if remat == "dots" else None)


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in ("dot_general", "conv_general_dilated")


def measure(
    state: TrainState, statistics: Any, batch: Batch, outputs: Mapping[str, jax.Array], updates: Any
) -> tuple[list[jax.Array], list[jax.Array], tuple[Any, Any]]:
    """Returns what `forward` does, from the outputs and the updates of a pass; each loss is a scalar of its own."""
    objectives = state.program.objectives
    losses = head_losses(outputs, batch, objectives)
    sums, counts = ([pair[i] for pair in losses.values()] for i in (0, 1))
    # A head of weight 0 is not computed and keeps its statistics.
    kept = {
        collection: {half: {**old[half], **updates.get(collection, {}).get(half, {})} for half in old}
        for collection, old in statistics.items()
    }
    return sums, counts, (kept, head_metrics(outputs, batch, objectives))


def shares_of(
    state: TrainState, batch: Batch, outputs: Mapping[str, jax.Array], updates: Any, axis_name: str | None
) -> tuple[tuple[jax.Array, ...], tuple[Any, Any]]:
    """Returns this device's shares of the K losses, apart so that each has a pullback of its own, and the extras."""
    sums, counts, extras = measure(state, state.statistics, batch, outputs, updates)
    return tuple(s / jnp.maximum(psum(c, axis_name), 1) for s, c in zip(sums, counts, strict=True)), extras


def microbatches(batch: Batch, pieces: int) -> Batch:
    """Returns the batch as `pieces` microbatches, each taken across the whole batch: every device has a share."""
    return {k: jnp.swapaxes(v.reshape(-1, pieces, *v.shape[1:]), 0, 1) for k, v in batch.items()}


def look_back(state: TrainState, new_state: TrainState, batch: Batch, key: jax.Array, axis_name: str | None) -> Any:
    """Returns the weighting's state after it has seen the K losses of the same batch at the new parameters."""
    sums, counts, _ = forward(state, new_state.params, state.statistics, batch, key)
    losses = psum(sums, axis_name) / jnp.maximum(psum(counts, axis_name), 1)
    given = signals(state, None)._replace(losses_after=losses * own_weights(state))
    finish = state.program.weighting.finish
    assert finish is not None
    return finish(given, new_state.weighting_state)


def progress(state: TrainState) -> jax.Array:
    """Returns the share of training that is done, float32 in [0, 1]."""
    return jnp.clip(state.step / max(state.program.total_steps, 1), 0.0, 1.0)


def own_weights(state: TrainState) -> jax.Array:
    """Returns main's and the heads' own weights at this step, float32[K]."""
    return state.program.weights(progress(state))


def signals(state: TrainState, losses: jax.Array | None) -> Signals:
    """Returns what a weighting may know before any gradient; its key is the same on every device."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 2)
    scaled = None if losses is None else jax.lax.stop_gradient(losses) * own_weights(state)
    return Signals(step=state.step, progress=progress(state), key=key, losses=scaled)


def psum(tree: Any, axis_name: str | None) -> Any:
    """Returns the sum over the devices of a pmap, or the tree itself where there is none."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def pmean(tree: Any, axis_name: str | None) -> Any:
    """Returns the mean over the devices of a pmap, or the tree itself where there is none."""
    return tree if axis_name is None or not jax.tree.leaves(tree) else jax.lax.pmean(tree, axis_name)
