"""One step function on many devices: jit over a data mesh (the default), pmap, or parameters sharded as in FSDP."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from auxjax.errors import AuxjaxError, unknown

MODES = ("jit", "pmap", "fsdp")
AXIS = "data"
# Smaller arrays stay whole on every device: gathering them costs more than it saves.
_MIN_SHARD_ELEMENTS = 4096


class Layout(NamedTuple):
    """How a run is laid out over devices; hashable."""

    mode: str
    devices: tuple[jax.Device, ...]

    @property
    def mesh(self) -> Mesh:
        """The one-axis data mesh; `Mesh` gives Auto axes, which Linen needs, `jax.make_mesh` Explicit ones."""
        return Mesh(np.array(self.devices), (AXIS,))


def layout(mode: str = "jit", num_devices: int = 0) -> Layout:
    """Returns the layout over the first `num_devices` devices (0: all); raises AuxjaxError where there are fewer."""
    if mode not in MODES:
        raise unknown("parallel mode", mode, MODES)
    devices = jax.devices()
    if num_devices > len(devices):
        raise AuxjaxError(
            f"parallel.num_devices={num_devices}, but this process sees {len(devices)} {devices[0].platform} device(s)"
        )
    return Layout(mode, tuple(devices[: num_devices or len(devices)]))


def check_batch_size(where: Layout, batch_size: int, accumulate: int = 1) -> None:
    """Raises AuxjaxError where the devices and microbatches do not divide the batch."""
    parts = len(where.devices) * accumulate
    if batch_size % parts:
        nearest = max(parts, round(batch_size / parts) * parts)
        detail = f"{len(where.devices)} devices" + (f" x {accumulate} microbatches" if accumulate > 1 else "")
        raise AuxjaxError(f"data.batch_size={batch_size} is not divisible by {detail}; the nearest that is: {nearest}")


def place_state(where: Layout, state: Any) -> Any:
    """Returns a copy of `state` on the layout's devices, safe to donate."""
    if where.mode == "pmap":
        stacked = jax.tree.map(lambda x: _stack(x, len(where.devices)), state)
        return jax.device_put(stacked, NamedSharding(where.mesh, PartitionSpec(AXIS)))
    # device_put may alias its source, and donating an alias deletes the original too.
    return jax.tree.map(lambda x, s: jax.device_put(x.copy(), s), state, state_shardings(where, state))


def place_resident(where: Layout, arrays: Any) -> Any:
    """Returns arrays that every step reads whole, such as a data set on the device, copied to every device once."""
    if where.mode == "pmap":
        stacked = jax.tree.map(lambda x: np.broadcast_to(x, (len(where.devices), *x.shape)), arrays)
        return jax.device_put(stacked, NamedSharding(where.mesh, PartitionSpec(AXIS)))
    return jax.device_put(arrays, NamedSharding(where.mesh, PartitionSpec()))


def place_batch(where: Layout, batch: Any) -> Any:
    """Returns a batch (any tree with a leading batch axis) split over the devices."""
    if where.mode == "pmap":
        count = len(where.devices)
        batch = jax.tree.map(lambda x: np.asarray(x).reshape(count, -1, *x.shape[1:]), batch)
    return jax.device_put(batch, NamedSharding(where.mesh, PartitionSpec(AXIS)))


def fetch_state(where: Layout, state: Any) -> Any:
    """Returns the state as one logical copy, whatever the layout."""
    return jax.tree.map(lambda x: x[0], state) if where.mode == "pmap" else state


def fetch_metrics(where: Layout, metrics: Any) -> Any:
    """Returns metrics, equal on every device, as NumPy values."""
    return jax.tree.map(
        lambda x: np.asarray(x.addressable_shards[0].data).reshape(x.shape[1:] if where.mode == "pmap" else x.shape),
        metrics,
    )


def compile_train(where: Layout, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function(state, resident, batch, axis_name=) -> (state, metrics)` compiled, its first argument donated.

    The new state keeps the layout of `place_state`, so that the second step is the first one's program. Under pmap
    every BatchNorm, of any model, averages over the devices.
    """
    if where.mode == "pmap":
        return jax.pmap(_synchronised(function), axis_name=AXIS, devices=where.devices, donate_argnums=0)

    @functools.wraps(function)
    def run(state: Any, resident: Any, batch: Any) -> Any:
        state, metrics = function(state, resident, batch)
        constrained = jax.lax.with_sharding_constraint(state, state_shardings(where, state))
        return constrained, jax.lax.with_sharding_constraint(metrics, NamedSharding(where.mesh, PartitionSpec()))

    return jax.jit(run, donate_argnums=0)


def compile_eval(where: Layout, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function(state, resident, batch, axis_name=) -> sums` compiled, the sums being equal on every device."""
    if where.mode == "pmap":
        return jax.pmap(_synchronised(function), axis_name=AXIS, devices=where.devices)
    return jax.jit(function, out_shardings=NamedSharding(where.mesh, PartitionSpec()))


def _synchronised(function: Callable[..., Any]) -> Callable[..., Any]:
    """Names the device axis to the step and to every BatchNorm in it, also those of models that cannot be edited."""

    def intercept(method: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if hasattr(context.module, "axis_name") and context.module.axis_name is None and _is_batch_norm(context.module):
            object.__setattr__(context.module, "axis_name", AXIS)
        return method(*args, **kwargs)

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        with nn.intercept_methods(intercept):
            return function(*args, axis_name=AXIS)

    return run


def _is_batch_norm(module: nn.Module) -> bool:
    return any("BatchNorm" in kind.__name__ for kind in type(module).__mro__)


def state_shardings(where: Layout, state: Any) -> Any:
    """Returns a sharding for every array: whole on every device, or under fsdp its longest divisible axis split."""
    count = len(where.devices)

    def one(array: Any) -> NamedSharding:
        axes = [None] * array.ndim
        divisible = [i for i, size in enumerate(array.shape) if size % count == 0]
        if where.mode == "fsdp" and divisible and array.size >= _MIN_SHARD_ELEMENTS:
            axes[max(divisible, key=lambda i: array.shape[i])] = AXIS  # type: ignore[call-overload]
        return NamedSharding(where.mesh, PartitionSpec(*axes))

    return jax.tree.map(one, state)


def _stack(array: jax.Array, count: int) -> jax.Array:
    return jax.numpy.broadcast_to(array, (count, *array.shape))
