"""A train step compiled for a slice or the local device: memory by kind, FLOPs, bytes, collectives; does it fit."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from auxjax import flops, ops, parallel
from auxjax.errors import AuxjaxError
from auxjax.parallel import Layout
from auxjax.preflight.collectives import Collective, collectives
from auxjax.preflight.steps import Step, placed

# What a device's runtime keeps for itself; libtpu itself compiles for 15.75 of a v5e's 16 GiB.
RESERVE = 2**28

# "Used 20.1G of 15.75G hbm", or "temporaries (20.1G) exceeds available HBM (15.75G)".
_USED = re.compile(r"(?:Used |\()([\d.]+)([KMGT])")
_HASTE = {"exec_time_optimization_effort": -1.0}
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Memory(NamedTuple):
    """Bytes on one device; `alias` is the part of the output that takes the arguments' place."""

    argument: int = 0
    output: int = 0
    alias: int = 0
    temporary: int = 0
    code: int = 0

    @property
    def total(self) -> int:
        """What must be there at once."""
        return self.argument + self.output - self.alias + self.temporary + self.code


class Compiled(NamedTuple):
    """What compiling tells of a step, on one device; `executable` is None where the compiler says it does not fit."""

    memory: Memory
    needed: int
    available: int
    flops: float
    bytes_moved: float
    model_flops: float
    collectives: list[Collective]
    executable: Any

    @property
    def fits(self) -> bool:
        """Whether the memory suffices."""
        return self.executable is not None and self.needed <= self.available


def compile_step(step: Step, where: Layout, memory: int, *, thorough: bool = False) -> Compiled:
    """Returns a step compiled over `where`, whose devices have `memory` bytes each.

    A TPU's compiler is told to look less long for fast code unless `thorough`, which takes ten times as long.
    Raises AuxjaxError where the devices do not divide the batch, and for what a compiler refuses for other reasons
    than memory.
    """
    if where.mode == "pmap":
        raise AuxjaxError("preflight compiles one program over a mesh: take parallel.mode=jit or fsdp, not pmap")
    accumulate = step.program.accumulate
    parallel.check_batch_size(where, step.batch_size, accumulate)
    count, available = len(where.devices), memory - RESERVE
    work = model_flops(step) / count
    lowered = lower(step, where)
    try:
        executable = finish(lowered, where, thorough=thorough)
    except jax.errors.JaxRuntimeError as error:
        return Compiled(Memory(), needed_by(str(error)), available, 0.0, 0.0, work, [], None)
    found = executable.memory_analysis()
    kinds = Memory() if found is None else Memory(
        found.argument_size_in_bytes, found.output_size_in_bytes, found.alias_size_in_bytes, found.temp_size_in_bytes,
        found.generated_code_size_in_bytes,
    )  # fmt: skip
    cost = executable.cost_analysis() or {}
    # XLA counts the body of a loop once, and nearly all of an accumulated step is its loop's body.
    counted, moved = (accumulate * float(cost.get(key, 0.0)) for key in ("flops", "bytes accessed"))
    sent = collectives(executable.as_text())
    return Compiled(kinds, kinds.total, available, counted, moved, work, sent, executable)


@contextlib.contextmanager
def compiled_anew() -> Iterator[None]:
    """Leaves JAX's cache of compiled programs out inside the block.

    What it holds for devices that are not here cannot be read, and what it holds for a CPU cannot be written again.
    """
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.values["jax_enable_compilation_cache"]
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def needed_by(refusal: str) -> int:
    """Returns the bytes that a compiler's refusal speaks of; raises AuxjaxError where it is about something else."""
    used = _USED.search(refusal)
    if "RESOURCE_EXHAUSTED" not in refusal or not used:
        raise AuxjaxError(f"the compiler refuses this step: {' '.join(refusal.split())[:400]}")
    return round(float(used[1]) * _UNITS[used[2]])


def finish(lowered: Any, where: Layout, *, thorough: bool = False) -> Any:
    """Returns what was lowered compiled, in haste where the compiler knows of that."""
    if where.devices[0].platform != "tpu":
        return lowered.compile()
    with compiled_anew():
        return lowered.compile(compiler_options=None if thorough else _HASTE)


def lower(step: Step, where: Layout) -> Any:
    """Returns a step lowered for the devices of a layout, in the form that is traced on that platform."""
    function: Any = parallel.compile_train(where, step.function)
    if where.devices[0].platform == "cpu":
        return function.lower(*placed(where, step))
    with ops.library_form():
        return function.lower(*placed(where, step))


def model_flops(step: Step) -> float:
    """Returns the FLOPs of the convolutions and matrix products of a whole step, nothing computed twice."""
    plain = step.program._replace(remat="none")
    state = step.state.replace(program=plain)
    return sum(flops.count(step.function, state, step.resident, step.inputs).values())
