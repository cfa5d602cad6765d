"""One pure training step: a forward pass, K losses, their weights, a backward pass, an update."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from auxjax.gradients import Pass, accumulated_gradients, gradients, look_back, pmean, psum, signals
from auxjax.head_gradients import head_gradients, resting_gradients
from auxjax.losses import head_losses
from auxjax.metrics import head_metrics
from auxjax.state import Batch, Main, Metrics, Program, TrainState, create_state

__all__ = ["Main", "Program", "TrainState", "create_state", "eval_step", "train_step"]


def train_step(state: TrainState, batch: Batch, *, axis_name: str | None = None) -> tuple[TrainState, Metrics]:
    """Returns the state after one update of all parameters, and the step's metrics as float32 scalars.

    total = sum_k w_k * (sum of loss k over its unmasked examples) / (their count), w from the weighting; the counts
    are summed over devices before the gradient is taken, so that ragged masks weigh every example alike.
    Under `pmap`, `axis_name` names the device axis; under `jit` over a mesh there is nothing to say.
    """
    program = state.program
    key = step_key(state, axis_name)
    result = backward(program)(state, batch, key, axis_name)
    updates, opt_state = program.optimizer.update(result.grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema_params
    new_state = state.replace(
        step=state.step + 1,
        params=params,
        statistics=pmean(result.statistics, axis_name),
        opt_state=opt_state,
        weighting_state=result.weighting_state,
        ema_params=None if ema is None else optax.incremental_update(params, ema, 1.0 - program.ema_decay),
    )
    if program.weighting.finish is not None:
        new_state = new_state.replace(weighting_state=look_back(state, new_state, batch, key, axis_name))
    metrics = _metrics(program, result, psum(result.hits, axis_name))
    return _finite(state, new_state, metrics) if program.skips else (new_state, metrics)


def step_key(state: TrainState, axis_name: str | None = None) -> jax.Array:
    """Returns the key of this step's dropout masks, on each device of a pmap its own."""
    key = jax.random.fold_in(state.key, state.step)
    return key if axis_name is None else jax.random.fold_in(key, jax.lax.axis_index(axis_name))


def backward(program: Program) -> Callable[..., Pass]:
    """Returns the cheapest backward pass that gives the weighting what it needs."""
    if not program.weighting.needs & {"gramian", "gradients", "held_out"}:
        return gradients if program.accumulate == 1 else accumulated_gradients
    rest = program.weighting.rest
    if rest is None:
        return head_gradients

    def due_or_not(state: TrainState, batch: Batch, key: jax.Array, axis_name: str | None) -> Pass:
        def branch(function: Callable[..., Pass]) -> Callable[[], Pass]:
            return lambda: function(state, batch, key, axis_name)

        due = rest.due(signals(state, None), state.weighting_state)
        return jax.lax.cond(due, branch(head_gradients), branch(resting_gradients))

    return due_or_not


def eval_step(state: TrainState, batch: Batch, *, axis_name: str | None = None) -> dict[str, dict[str, jax.Array]]:
    """Returns the sums {"loss", "correct"} and "count" of main and of every head on one batch, in inference mode."""
    program = state.program
    inputs = (batch[name] for name in program.inputs)
    outputs = program.attached.apply(state.variables, *inputs, train=False, heads=program.names, step=state.step)
    losses = head_losses(outputs, batch, program.objectives)
    hits = head_metrics(outputs, batch, program.objectives)
    sums = {name: {"loss": losses[name][0]} | hits[name] for name in losses}
    return sums if axis_name is None else jax.lax.psum(sums, axis_name)


def _finite(state: TrainState, new_state: TrainState, metrics: Metrics) -> tuple[TrainState, Metrics]:
    """Returns the old state, a step on, in place of a new one that is not finite, and counts which loss was not."""
    bad = {name: ~jnp.isfinite(metrics[f"loss/{name}"]) for name in state.program.objectives}
    lost = functools.reduce(jnp.logical_or, bad.values())
    bad["gradient"] = ~jnp.isfinite(metrics["grad_norm/total"]) & ~lost
    skip = bad["total"] = lost | bad["gradient"]
    counts = {name: state.skipped["counts"][name] + bad[name] for name in bad}
    skipped = {"counts": counts, "in_a_row": jnp.where(skip, state.skipped["in_a_row"] + 1, 0)}
    kept = jax.tree.map(lambda new, old: jnp.where(skip, old, new), new_state, state)
    shown = {f"skipped/{name}": count for name, count in counts.items()} | {"skipped_in_a_row": skipped["in_a_row"]}
    new_metrics = metrics | {name: count.astype(jnp.float32) for name, count in shown.items()}
    return kept.replace(step=new_state.step, skipped=skipped), new_metrics


def _metrics(program: Program, result: Pass, hits: Mapping[str, Any]) -> Metrics:
    metrics = {"loss/total": jnp.dot(result.weights, result.losses), "grad_norm/total": optax.tree.norm(result.grads)}
    for index, name in enumerate(program.objectives):
        metrics[f"loss/{name}"] = result.losses[index]
        metrics[f"weight/{name}"] = result.weights[index]
        metrics[f"weighted/{name}"] = result.weights[index] * result.losses[index]
        metrics[f"accuracy/{name}"] = hits[name]["correct"] / jnp.maximum(hits[name]["count"], 1)
    return {name: value.astype(jnp.float32) for name, value in metrics.items()}
