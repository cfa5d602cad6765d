"""One compiled function for several members at a time, each called from a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp

from auxjax import machine

# Of the memory that is free; the rest is for states, and for what else runs here.
_SHARE = 0.5


def in_threads(function: Callable[..., Any], donate_argnums: tuple[int, ...] = ()) -> Callable[..., list[Any]]:
    """Returns `run(calls) -> results`: the compiled function of each call's arguments, which have the same shapes.

    A loop that is compiled for a CPU is at work on one processor, and holds no lock of Python's. As many calls run at a
    time as there are processors, fewer where their temporaries would not fit into half of the memory that is free.
    """
    jitted = jax.jit(function, donate_argnums=donate_argnums)
    programs: dict[Any, tuple[Any, int]] = {}

    def run(calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        # A thread has JAX's default settings, under which NumPy's double precision would not stay.
        calls = jax.tree.map(jnp.asarray, calls)
        shapes = tuple(jax.typeof(x) for x in jax.tree.leaves(calls[0]))
        if shapes not in programs:
            # Not by the first calls, which would compile it as often as there are threads.
            program = jitted.lower(*calls[0]).compile()
            programs[shapes] = program, min(machine.processors(), _fitting(program))
        program, threads = programs[shapes]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda call: jax.block_until_ready(program(*call)), calls))

    return run


def _fitting(program: Any) -> int:
    """Returns how many calls of a program fit into the memory that is there for them; at least one."""
    analysis, memory = program.memory_analysis(), machine.memory()
    if analysis is None or memory is None:
        return machine.processors()
    needed = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    return max(int(_SHARE * memory[1] // max(needed, 1)), 1)
