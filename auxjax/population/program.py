"""The compiled functions of a group: a stretch of training steps, and an evaluation, each one loop in the program."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from auxjax import batches, build, data
from auxjax.population.numbers import with_numbers
from auxjax.population.plan import Group
from auxjax.state import Program, TrainState
from auxjax.step import eval_step

# Steps in one call at most: what a person waits for between two signs of progress, and the size of its buffers.
LONGEST = 1000
Metrics = dict[str, jax.Array]


class Compiled(NamedTuple):
    """What the members of a group share.

    `stretch(numbers, state, resident, index, count) -> (state, metrics)` trains for `count` steps on the positions
    int32[longest, B]; metrics are float32[longest], of which the first `count` are meant. A step whose loss or gradient
    is not finite is the last one. `evaluate(state, resident, index, mask) -> sums`; `example` proves stripped trees.
    """

    program: Program
    dataset: data.DataSet
    total_steps: int
    every: Mapping[str, int]
    longest: int
    eval_batch_size: int
    stretch: Callable[..., tuple[TrainState, Metrics]]
    evaluate: Callable[..., dict[str, Metrics]]
    example: jax.Array

    @property
    def eval_split(self) -> str:
        """What is evaluated while training: the validation split where one is held out."""
        return "validation" if "validation" in self.dataset.splits else "test"

    def next_stop(self, step: int) -> int:
        """Returns the step at which members next stop: to be evaluated, to be saved, or since `longest` is reached."""
        stops = [step + n - step % n for n in (self.every["eval"], self.every["checkpoint"])]
        return min(*stops, self.total_steps, step + self.longest)


def compiled(group: Group) -> Compiled:
    """Returns a group's functions, not yet compiled for any way of execution."""
    config = group.config
    dataset = data.load(config.data)
    steps_per_epoch, total_steps, every = build.lengths(config, dataset)
    program = build.program(config, dataset.num_classes, steps_per_epoch, total_steps)
    longest = min(every["eval"], every["checkpoint"], total_steps, LONGEST)
    sizes = (dataset.num_classes, steps_per_epoch, total_steps)
    return Compiled(
        program=program, dataset=dataset, total_steps=total_steps, every=every, longest=longest,
        eval_batch_size=config.data.eval_batch_size,
        stretch=functools.partial(_stretch, program, config, dataset, sizes),
        evaluate=functools.partial(_evaluate, batches.batch_spec(config, dataset)),
        example=build.proof_example(dataset),
    )  # fmt: skip


def initial_state(group: Group, shared: Compiled, config: ConfigDict) -> TrainState:
    """Returns a member's state before its first step, with a head at every place that the group has one."""
    wide = ConfigDict({**config.to_dict(), "heads": group.config.heads.to_dict()})
    return build.initial_state(shared.program, wide, shared.dataset)


def evaluation_inputs(shared: Compiled, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns a split's positions int32[n, B] and their mask float32[n, B], B the evaluation's batch size."""
    count, size = len(shared.dataset.split(split)), shared.eval_batch_size
    index = np.arange(-(-count // size) * size, dtype=np.int32).reshape(-1, size)
    return np.minimum(index, count - 1), (index < count).astype(np.float32)


def _stretch(
    program: Program, config: ConfigDict, dataset: data.DataSet, sizes: tuple[int, int, int],
    numbers: Mapping[str, jax.Array], state: TrainState, resident: Any, index: jax.Array, count: jax.Array,
) -> tuple[TrainState, Metrics]:  # fmt: skip
    filled = with_numbers(config, numbers)
    # Its closures hold this function's arguments, so that it must not leave a step.
    own = build.assemble(filled, *sizes)
    spec = batches.batch_spec(filled, dataset)

    def step(state: TrainState, position: jax.Array) -> tuple[TrainState, Metrics]:
        after, metrics = batches.step_on(state.replace(program=own), resident, {"index": position}, spec=spec)
        return after.replace(program=program), metrics

    def goes_on(carry: tuple[jax.Array, jax.Array, TrainState, Metrics]) -> jax.Array:
        return (carry[0] < count) & carry[1]

    def body(carry: tuple[jax.Array, jax.Array, TrainState, Metrics]) -> tuple[Any, ...]:
        i, _, state, seen = carry
        state, metrics = step(state, index[i])
        finite = jnp.isfinite(metrics["loss/total"]) & jnp.isfinite(metrics["grad_norm/total"])
        return i + 1, finite, state, {name: values.at[i].set(metrics[name]) for name, values in seen.items()}

    shapes = jax.eval_shape(step, state, index[0])[1]
    buffers = {name: jnp.zeros((len(index), *shape.shape), shape.dtype) for name, shape in shapes.items()}
    start = (jnp.zeros((), jnp.int32), jnp.ones((), bool), state, buffers)
    return jax.lax.while_loop(goes_on, body, start)[2:]


def _evaluate(
    spec: data.BatchSpec, state: TrainState, resident: Any, index: jax.Array, mask: jax.Array
) -> dict[str, Metrics]:
    def add(sums: Any, inputs: Any) -> tuple[Any, None]:
        more = eval_step(state, data.to_batch(resident, inputs, spec))
        return jax.tree.map(jnp.add, sums, more), None

    inputs = {"index": index, "mask": mask}
    shapes = jax.eval_shape(
        lambda: eval_step(state, data.to_batch(resident, jax.tree.map(lambda x: x[0], inputs), spec))
    )
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zeros, inputs)[0]
