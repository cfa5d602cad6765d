"""The device that is here: its memory, its peaks as measured, and a step measured against its estimate."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from auxjax.preflight.estimate import Rates
from auxjax.preflight.steps import Step

_SIDE, _ELEMENTS, _REPEATS = 2048, 2**25, 5


def memory(device: jax.Device) -> int:
    """Returns a device's bytes: the machine's own for a CPU."""
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    stats = device.memory_stats() or {}
    return int(stats.get("bytes_limit", 0))


def measured_rates(dtype: str) -> Rates:
    """Returns the device's FLOPs a second on a matrix product of that dtype and bytes a second on a copy, best of 5."""
    square, line = jnp.ones((_SIDE, _SIDE), dtype), jnp.ones(_ELEMENTS, jnp.float32)
    product = jax.jit(lambda x: x @ x)
    copy = jax.jit(lambda x: x + 1)
    return Rates(
        2 * _SIDE**3 / _best(lambda: product(square).block_until_ready()),
        2 * line.nbytes / _best(lambda: copy(line).block_until_ready()),
    )


def measured_step(step: Step, executable: Any, repeats: int = 3) -> float:
    """Returns the seconds of one step of a compiled executable on arrays of zeros, best of `repeats`."""
    state, resident, inputs = (jax.tree.map(_zeros, tree) for tree in (step.state, step.resident, step.inputs))
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        state, metrics = executable(state, resident, inputs)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _zeros(array: Any) -> jax.Array:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    return jnp.zeros(array.shape, array.dtype)


def _best(run: Callable[[], Any]) -> float:
    run()
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
