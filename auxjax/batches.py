"""From a pipeline's inputs to a step: the batch that they make, and the compiled steps of training and evaluation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from auxjax import data, parallel
from auxjax.parallel import Layout
from auxjax.state import Program, TrainState
from auxjax.step import eval_step, train_step

# Steps fold their number into the run's key, and no run gets this far.
_NOISE = 2**31 - 1


def step_on(
    state: TrainState, resident: Any, inputs: Any, *, spec: data.BatchSpec, axis_name: str | None = None
) -> tuple[TrainState, Any]:
    """Returns what `train_step` does on the batch that a pipeline's inputs make, augmented by the run's own key."""
    batch = training_batch(state, resident, inputs, spec=spec, axis_name=axis_name)
    return train_step(state, batch, axis_name=axis_name)


def training_batch(
    state: TrainState, resident: Any, inputs: Any, *, spec: data.BatchSpec, axis_name: str | None = None
) -> dict[str, jax.Array]:
    """Returns the batch that the state's next step makes of a pipeline's inputs."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 1)
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    return data.to_batch(resident, inputs, spec, key, jax.random.fold_in(state.key, _NOISE))


@functools.lru_cache(maxsize=16)
def functions(built: Program, where: Layout, spec: data.BatchSpec) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns the compiled training and evaluation steps, each from a pipeline's inputs."""

    def training(state: TrainState, resident: Any, inputs: Any, axis_name: str | None = None) -> Any:
        return step_on(state, resident, inputs, spec=spec, axis_name=axis_name)

    def evaluation(state: TrainState, resident: Any, inputs: Any, axis_name: str | None = None) -> Any:
        return eval_step(state, data.to_batch(resident, inputs, spec), axis_name=axis_name)

    return parallel.compile_train(where, training), parallel.compile_eval(where, evaluation)


def batch_spec(config: Mapping[str, Any], dataset: data.DataSet) -> data.BatchSpec:
    """Returns what turns a finished config's raw examples into batches."""
    changes = dict(config["data"]["augment"]) | {"label_noise": config["data"]["label_noise"]}
    return data.BatchSpec(dataset.num_classes, dataset.mean, dataset.std, **changes)
