"""One pure training step: a forward pass, K losses, their weights, one weighted backward pass, an update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from auxjax.attach import Attached
from auxjax.errors import AuxjaxError
from auxjax.heads import Head
from auxjax.losses import head_losses
from auxjax.metrics import head_metrics
from auxjax.weighting.protocol import Signals, Weighting

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


class Main(NamedTuple):
    """The loss on the model's own output, as a Head has it for a tap."""

    loss: Any = "softmax_cross_entropy"
    target: str = "label"
    mask: str = "mask"
    label_smoothing: float = 0.0


class Program(NamedTuple):
    """What a training step does apart from the numbers in its state; hashable: equal programs share a compile."""

    attached: Attached
    main: Main
    names: tuple[str, ...]
    weighting: Weighting
    optimizer: optax.GradientTransformation
    total_steps: int
    accumulate: int = 1
    ema_decay: float = 0.0
    inputs: tuple[str, ...] = ("image",)

    @property
    def objectives(self) -> dict[str, Main | Head]:
        """The K losses in order, main first, then the heads that are trained (a head of weight 0 is not)."""
        return {"main": self.main} | {name: self.attached.heads[name] for name in self.names}


class TrainState(struct.PyTreeNode):
    """Everything that a step reads and changes; each collection has the halves `model` and `heads`."""

    step: jax.Array
    params: Any
    statistics: Any  # every collection but the parameters, BatchNorm's averages for one
    opt_state: Any
    weighting_state: Any
    ema_params: Any  # None without EMA
    key: jax.Array
    program: Program = struct.field(pytree_node=False)

    @property
    def variables(self) -> dict[str, Any]:
        """The variables to evaluate and ship: the averaged parameters where there are any."""
        return {"params": self.params if self.ema_params is None else self.ema_params} | dict(self.statistics)


def create_state(program: Program, variables: Mapping[str, Any], key: jax.Array) -> TrainState:
    """Returns the state before the first step, from the variables of `program.attached.init`."""
    if program.accumulate > 1 and program.weighting.needs:
        raise AuxjaxError(
            f"accumulate={program.accumulate} cannot serve a weighting that needs {set(program.weighting.needs)}"
        )
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        statistics={collection: value for collection, value in variables.items() if collection != "params"},
        opt_state=program.optimizer.init(params),
        weighting_state=program.weighting.init(("main", *program.names)),
        ema_params=jax.tree.map(jnp.copy, params) if program.ema_decay else None,
        key=key,
        program=program,
    )


def train_step(state: TrainState, batch: Batch, *, axis_name: str | None = None) -> tuple[TrainState, Metrics]:
    """Returns the state after one update of all parameters, and the step's metrics as float32 scalars.

    total = sum_k w_k * (sum of loss k over its unmasked examples) / (their count), w from the weighting; the counts
    are summed over devices before the gradient is taken, so that ragged masks weigh every example alike.
    Under `pmap`, `axis_name` names the device axis; under `jit` over a mesh there is nothing to say.
    """
    program = state.program
    key = jax.random.fold_in(state.key, state.step)
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    backward = gradients if program.accumulate == 1 else _accumulated_gradients
    result = backward(state, batch, key, axis_name)
    grads = _psum(result.grads, axis_name)
    updates, opt_state = program.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema_params
    new_state = state.replace(
        step=state.step + 1,
        params=params,
        statistics=_pmean(result.statistics, axis_name),
        opt_state=opt_state,
        weighting_state=result.weighting_state,
        ema_params=None if ema is None else optax.incremental_update(params, ema, 1.0 - program.ema_decay),
    )
    return new_state, _metrics(program, result, grads, _psum(result.hits, axis_name))


def eval_step(state: TrainState, batch: Batch, *, axis_name: str | None = None) -> dict[str, dict[str, jax.Array]]:
    """Returns the sums {"loss", "correct"} and "count" of main and of every head on one batch, in inference mode."""
    program = state.program
    inputs = (batch[name] for name in program.inputs)
    outputs = program.attached.apply(state.variables, *inputs, train=False, heads=program.names, step=state.step)
    losses = head_losses(outputs, batch, program.objectives)
    hits = head_metrics(outputs, batch, program.objectives)
    sums = {name: {"loss": losses[name][0]} | hits[name] for name in losses}
    return sums if axis_name is None else jax.lax.psum(sums, axis_name)


class Pass(NamedTuple):
    """What the passes over one batch leave: K global losses and weights, gradients, statistics, correct answers."""

    losses: jax.Array
    weights: jax.Array
    weighting_state: Any
    grads: Any
    statistics: Any
    hits: dict[str, dict[str, jax.Array]]


def gradients(state: TrainState, batch: Batch, key: jax.Array, axis_name: str | None = None) -> Pass:
    """One forward pass, K losses, and one pullback of their weights: the gradient of the weighted sum."""

    def losses_of(params: Any) -> tuple[jax.Array, tuple[Any, Any]]:
        sums, counts, extras = _forward(state, params, state.statistics, batch, key)
        return sums / jnp.maximum(_psum(counts, axis_name), 1), extras

    shares, pullback, (statistics, hits) = jax.vjp(losses_of, state.params, has_aux=True)
    losses = _psum(shares, axis_name)
    weights, weighting_state = state.program.weighting.update(_signals(state, losses), state.weighting_state)
    (grads,) = pullback(weights.astype(shares.dtype))
    return Pass(losses, weights, weighting_state, grads, statistics, hits)


def _accumulated_gradients(state: TrainState, batch: Batch, key: jax.Array, axis_name: str | None) -> Pass:
    """The same from microbatches one after another; every loss keeps the count of the whole batch.

    BatchNorm normalises each microbatch by itself and moves its averages once per microbatch, as everywhere.
    """
    pieces = state.program.accumulate
    # Counts depend on masks and shapes alone, so the compiler drops the forward pass that they come with.
    counts = _psum(_forward(state, state.params, state.statistics, batch, key)[1], axis_name)
    weights, weighting_state = state.program.weighting.update(_signals(state, None), state.weighting_state)

    def add(carry: tuple[Any, ...], piece_and_index: tuple[Batch, jax.Array]) -> tuple[tuple[Any, ...], None]:
        losses, grads, hits, statistics = carry
        piece, index = piece_and_index

        def losses_of(params: Any) -> tuple[jax.Array, tuple[Any, Any]]:
            sums, _, extras = _forward(state, params, statistics, piece, jax.random.fold_in(key, index))
            return sums / jnp.maximum(counts, 1), extras

        share, pullback, (statistics, more_hits) = jax.vjp(losses_of, state.params, has_aux=True)
        (more_grads,) = pullback(weights.astype(share.dtype))
        sums = jax.tree.map(jnp.add, (losses, grads, hits), (share, more_grads, more_hits))
        return (*sums, statistics), None

    no_hits = {name: {"correct": jnp.zeros(()), "count": jnp.zeros(())} for name in state.program.objectives}
    start = (jnp.zeros_like(counts), jax.tree.map(jnp.zeros_like, state.params), no_hits, state.statistics)
    (losses, grads, hits, statistics), _ = jax.lax.scan(add, start, (_split(batch, pieces), jnp.arange(pieces)))
    return Pass(_psum(losses, axis_name), weights, weighting_state, grads, statistics, hits)


def _forward(
    state: TrainState, params: Any, statistics: Any, batch: Batch, key: jax.Array
) -> tuple[jax.Array, jax.Array, tuple[Any, Any]]:
    """Returns K sums of losses, K counts, and what else the pass leaves: new statistics and correct answers."""
    program = state.program
    outputs, updates = program.attached.apply(
        {"params": params, **statistics}, *(batch[name] for name in program.inputs), train=True, heads=program.names,
        rngs={"dropout": key}, mutable=tuple(statistics) or ("batch_stats",), step=state.step,
    )  # fmt: skip
    losses = head_losses(outputs, batch, program.objectives)
    sums, counts = (jnp.stack([pair[i] for pair in losses.values()]) for i in (0, 1))
    # A head of weight 0 is not computed and keeps its statistics.
    kept = {
        collection: {half: {**old[half], **updates.get(collection, {}).get(half, {})} for half in old}
        for collection, old in statistics.items()
    }
    return sums, counts, (kept, head_metrics(outputs, batch, program.objectives))


def _split(batch: Batch, pieces: int) -> Batch:
    """Returns the batch as `pieces` microbatches, each taken across the whole batch: every device has a share."""
    return {k: jnp.swapaxes(v.reshape(-1, pieces, *v.shape[1:]), 0, 1) for k, v in batch.items()}


def _signals(state: TrainState, losses: jax.Array | None) -> Signals:
    progress = jnp.clip(state.step / max(state.program.total_steps, 1), 0.0, 1.0)
    return Signals(step=state.step, progress=progress, losses=None if losses is None else jax.lax.stop_gradient(losses))


def _psum(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _pmean(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None or not jax.tree.leaves(tree) else jax.lax.pmean(tree, axis_name)


def _metrics(program: Program, result: Pass, grads: Any, hits: Mapping[str, Any]) -> Metrics:
    metrics = {"loss/total": jnp.dot(result.weights, result.losses), "grad_norm/total": optax.tree.norm(grads)}
    for index, name in enumerate(program.objectives):
        metrics[f"loss/{name}"] = result.losses[index]
        metrics[f"weight/{name}"] = result.weights[index]
        metrics[f"weighted/{name}"] = result.weights[index] * result.losses[index]
        metrics[f"accuracy/{name}"] = hits[name]["correct"] / jnp.maximum(hits[name]["count"], 1)
    return {name: value.astype(jnp.float32) for name, value in metrics.items()}
