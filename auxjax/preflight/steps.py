"""The train step of a config as shapes: nothing is initialised and no data set need be there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from auxjax import batches, build, data, parallel
from auxjax.data import sets
from auxjax.errors import AuxjaxError
from auxjax.head_gradients import trunk_of
from auxjax.parallel import AXIS, Layout
from auxjax.step import Program, TrainState, create_state

# Classes, training examples and image (None: of different sizes) of sets that a machine without them can be asked
# about; from the data sets' own descriptions.
PUBLISHED: dict[str, tuple[int, int, tuple[int | None, int | None, int]]] = {
    "digits": (10, 1442, (8, 8, 1)),
    "mnist": (10, 60_000, (28, 28, 1)),
    "fashion_mnist": (10, 60_000, (28, 28, 1)),
    "cifar10": (10, 50_000, (32, 32, 3)),
    "cifar100": (100, 50_000, (32, 32, 3)),
    "imagenet2012": (1000, 1_281_167, (None, None, 3)),
}


class Step(NamedTuple):
    """A config's train step: the function of (state, resident, inputs), its arguments' shapes, and its program."""

    program: Program
    function: Callable[..., Any]
    state: TrainState
    resident: Any
    inputs: Any
    image_shape: tuple[int, int, int]
    batch_size: int


def step_of(config: Any) -> Step:
    """Returns the train step of a finished config; raises AuxjaxError for a data set that is neither here nor known."""
    dataset = described(config)
    examples = len(dataset.splits["train"])
    steps_per_epoch, total_steps, _ = build.lengths(config, dataset)
    built = build.program(config, dataset.num_classes, steps_per_epoch, total_steps)
    size, spec = config.data.batch_size, batches.batch_spec(config, dataset)
    image, label = jax.ShapeDtypeStruct(dataset.image_shape, jnp.uint8), jax.ShapeDtypeStruct((), jnp.int32)
    inputs: dict[str, Any] = {"image": _stack(image, size), "label": _stack(label, size)}
    resident: dict[str, Any] = {}
    if config.data.cache == "device":
        resident = {"image": _stack(image, examples), "label": _stack(label, examples)}
        inputs = {"index": jax.ShapeDtypeStruct((size,), jnp.int32)}

    def function(state: TrainState, resident: Any, inputs: Any) -> Any:
        return batches.step_on(state, resident, inputs, spec=spec)

    state = state_of(built, dataset.image_shape, size)
    return Step(built, function, state, resident, inputs, dataset.image_shape, size)


def described(config: Any) -> data.DataSet:
    """Returns the config's data set, or where it is not on this machine one of its published size without examples."""
    name, size, held_out = config.data.name, config.data.image_size, config.data.validation_examples
    try:
        return data.load(config.data)
    except AuxjaxError:
        if name not in PUBLISHED:
            raise
    classes, examples, (height, width, channels) = PUBLISHED[name]
    height, width = (size, size) if size else (height, width)
    if height is None or width is None:
        raise AuxjaxError(f"images of {name!r} have different sizes: set data.image_size, as in data.image_size=224")
    splits: Any = {"train": range(examples - held_out)}
    mean, std = sets.moments(name, channels)
    return data.DataSet(name, classes, (height, width, channels), splits, mean, std)


def state_of(built: Program, image_shape: tuple[int, int, int], batch_size: int) -> TrainState:
    """Returns the state before the first step as shapes."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(lambda x: built.attached.init(jax.random.key(0), x), image)
    trunk = None
    if built.weighting.needs & {"gramian", "gradients", "held_out"}:
        batch: Any = {"image": jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)}
        trunk = trunk_of(built, variables, batch | {"label": jax.ShapeDtypeStruct((batch_size,), jnp.int32)})
    return jax.eval_shape(lambda v: create_state(built, v, jax.random.key(0), trunk), variables)


def placed(where: Layout, step: Step) -> tuple[Any, Any, Any]:
    """Returns the step's arguments as shapes with the shardings that a run gives them."""
    whole, split = NamedSharding(where.mesh, PartitionSpec()), NamedSharding(where.mesh, PartitionSpec(AXIS))
    state = jax.tree.map(_with, step.state, parallel.state_shardings(where, step.state))
    resident = jax.tree.map(lambda x: _with(x, whole), step.resident)
    return state, resident, jax.tree.map(lambda x: _with(x, split), step.inputs)


def _with(array: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def _stack(array: jax.ShapeDtypeStruct, count: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((count, *array.shape), array.dtype)
