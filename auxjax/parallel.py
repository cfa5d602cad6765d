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
        who = "this process sees" if jax.process_count() == 1 else f"{jax.process_count()} processes have"
        raise AuxjaxError(
            f"parallel.num_devices={num_devices}, but {who} {len(devices)} {devices[0].platform} device(s)"
        )
    if jax.process_count() > 1:
        _check_processes(mode, num_devices, len(devices))
    return Layout(mode, tuple(devices[: num_devices or len(devices)]))


def _check_processes(mode: str, num_devices: int, count: int) -> None:
    """Raises AuxjaxError for what several processes cannot do."""
    if not jax.distributed.is_initialized():
        raise AuxjaxError(
            f"this is one of {jax.process_count()} processes that have not met: call auxjax.processes.start() before "
            "anything touches a device"
        )
    if mode == "pmap":
        raise AuxjaxError("parallel.mode='pmap' is for one process: with several take 'jit', or 'fsdp'")
    if num_devices not in (0, count):
        raise AuxjaxError(
            f"parallel.num_devices={num_devices}, but {jax.process_count()} processes use all their {count} devices: "
            "set 0, or start fewer processes"
        )


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
    place = _place_whole if jax.process_count() > 1 else lambda x, s: jax.device_put(x.copy(), s)
    return jax.tree.map(place, state, state_shardings(where, state))


def saved_layout(where: Layout, state: Any) -> Any:
    """Returns what a checkpoint is restored like: `state`, or of several processes its shapes, laid out for them."""
    if jax.process_count() == 1:
        return state

    def like(array: Any, sharding: NamedSharding) -> Any:
        if _is_key(array):  # Orbax knows a key by its array alone
            return _place_whole(array, sharding)
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    return jax.tree.map(like, state, state_shardings(where, state))


def place_resident(where: Layout, arrays: Any) -> Any:
    """Returns arrays that every step reads whole, such as a data set on the device, copied to every device once."""
    if where.mode == "pmap":
        stacked = jax.tree.map(lambda x: np.broadcast_to(x, (len(where.devices), *x.shape)), arrays)
        return jax.device_put(stacked, NamedSharding(where.mesh, PartitionSpec(AXIS)))
    whole = NamedSharding(where.mesh, PartitionSpec())
    if jax.process_count() > 1:
        return jax.tree.map(lambda x: _place_whole(x, whole), arrays)
    return jax.device_put(arrays, whole)


def place_batch(where: Layout, batch: Any) -> Any:
    """Returns a batch (any tree with a leading batch axis) split over the devices.

    Of several processes each gives the rows of `local_rows` alone, in their order.
    """
    if jax.process_count() > 1:
        return jax.tree.map(lambda x: _place_rows(where, x), batch)
    if where.mode == "pmap":
        count = len(where.devices)
        batch = jax.tree.map(lambda x: np.asarray(x).reshape(count, -1, *x.shape[1:]), batch)
    return jax.device_put(batch, NamedSharding(where.mesh, PartitionSpec(AXIS)))


@functools.lru_cache(maxsize=16)
def local_rows(where: Layout, size: int) -> np.ndarray:
    """Returns int[rows]: which of a global batch's `size` rows this process's devices hold, in ascending order."""
    sharding = NamedSharding(where.mesh, PartitionSpec(AXIS))
    spans = sharding.addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[span] for span in spans if span is not None]))


def fetch_state(where: Layout, state: Any) -> Any:
    """Returns the state as one logical copy, whatever the layout."""
    return jax.tree.map(lambda x: x[0], state) if where.mode == "pmap" else state


def gather(where: Layout, tree: Any) -> Any:
    """Returns a tree that this process can read: with several, on the host and whole; all of them have to call it."""
    return tree if jax.process_count() == 1 else jax.tree.map(lambda x: _gather(where, x), tree)


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


def _place_whole(array: Any, sharding: NamedSharding) -> jax.Array:
    """Returns a copy, laid out over several processes, of an array that all of them have whole, or that already is."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return jax.device_put(array.copy(), sharding)
    if _is_key(array):
        data = _place_whole(jax.random.key_data(array), NamedSharding(sharding.mesh, PartitionSpec()))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda part: host[part])


def _is_key(array: Any) -> bool:
    return bool(jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key))


def _place_rows(where: Layout, local: Any) -> jax.Array:
    size = len(local) * len(where.devices) // len(where.mesh.local_devices)
    rows = local_rows(where, size)

    def part(spans: Any) -> Any:
        start, stop, _ = spans[0].indices(size)
        first = int(np.searchsorted(rows, start))
        return local[first : first + stop - start]

    sharding = NamedSharding(where.mesh, PartitionSpec(AXIS))
    return jax.make_array_from_callback((size, *local.shape[1:]), sharding, part)


def _gather(where: Layout, array: Any) -> Any:
    if array.is_fully_addressable:
        return array
    if _is_key(array):
        return jax.random.wrap_key_data(_gather(where, jax.random.key_data(array)), impl=jax.random.key_impl(array))
    whole = array if array.is_fully_replicated else _replicate(where)(array)
    return np.asarray(whole.addressable_data(0))


@functools.lru_cache(maxsize=4)
def _replicate(where: Layout) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda x: x, out_shardings=NamedSharding(where.mesh, PartitionSpec()))


def _stack(array: jax.Array, count: int) -> jax.Array:
    return jax.numpy.broadcast_to(array, (count, *array.shape))
