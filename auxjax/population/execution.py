"""Ways to execute a group: members one after another, in threads, as one batch, or spread over devices."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from auxjax import machine
from auxjax.errors import unknown
from auxjax.population.program import Compiled
from auxjax.population.threads import in_threads

logger = logging.getLogger("auxjax")

WAYS = ("auto", "scanned", "threads", "vmapped", "devices")
AXIS = "members"
# What choosing costs must be small against what it decides on, and what it finds larger than the noise of a clock.
_TRIAL_STEPS, _TRIAL_MEMBERS, _TRIALS, _WORTH_A_TRIAL_SECONDS, _CLEARLY = 20, 4, 3, 120.0, 0.8
# Members in one batch at most: an interruption loses what all of them did since their last checkpoint.
_WIDEST = 64


class Execution(NamedTuple):
    """A way to execute a group: how many members at a time, and functions of the members' joined trees.

    `join` makes one tree of the members' trees, by a leading axis or as a tuple, and `part(tree, i)` takes one out;
    `everywhere` places what all share. Metrics and evaluations lead with a member axis.
    """

    name: str
    width: int
    join: Callable[[Sequence[Any]], Any]
    part: Callable[[Any, int], Any]
    everywhere: Callable[[Any], Any]
    stretch: Callable[..., Any]
    evaluate: Callable[..., Any]


def check_execution(name: str) -> None:
    """Raises AuxjaxError for a name that is not of `WAYS`."""
    if name not in WAYS:
        raise unknown("execution", name, WAYS)


def way_of(name: str, shared: Compiled, members: int) -> Execution:
    """Returns the way of that name for so many members; raises AuxjaxError for an unknown one."""
    if name not in WAYS[1:]:
        raise unknown("execution", name, WAYS)
    ways = {"scanned": _scanned, "threads": _threaded, "vmapped": _vmapped, "devices": _spread}
    return ways[name](shared, members)


def choose(shared: Compiled, members: int, trial: Callable[[Execution, int, int, int], float]) -> Execution:
    """Returns the way that some steps of a few members say is the fastest; over devices only where there are several.

    `trial(way, members, steps, times)` gives the seconds of the fastest of so many runs, on states that are thrown
    away. Nothing is tried where all of the training takes less than two minutes one after another: a CPU of several
    processors then has threads. One after another is kept unless another way is clearly faster: it compiles in half
    the time of a batch, and an interruption costs it least.
    """
    scanned = way_of("scanned", shared, 1)
    if members == 1:
        return scanned
    threads = machine.processors() if jax.default_backend() == "cpu" else 1
    steps = min(_TRIAL_STEPS, shared.longest)
    alone = trial(scanned, 1, steps, _TRIALS)
    if alone / steps * shared.total_steps * members < _WORTH_A_TRIAL_SECONDS:
        return way_of("threads", shared, members) if threads > 1 else scanned
    seconds = {"scanned": alone * members}
    for name, spread in {"threads": threads, "vmapped": 1, "devices": jax.local_device_count()}.items():
        if name != "vmapped" and spread == 1:
            continue
        some = min(spread if name == "threads" else _TRIAL_MEMBERS * spread, members)
        tried = trial(way_of(name, shared, some), some, steps, _TRIALS)
        seconds[name] = tried * _blocks(members, spread) / _blocks(some, spread)
    fastest = min(seconds, key=lambda name: seconds[name])
    chosen = fastest if seconds[fastest] < _CLEARLY * seconds["scanned"] else "scanned"
    told = ", ".join(f"{name} {value:.3g} s" for name, value in seconds.items())
    logger.info("%d members: %s (%d steps of all of them, by a trial: %s)", members, chosen, steps, told)
    return way_of(chosen, shared, members)


def _blocks(members: int, places: int) -> int:
    """Returns how many members the fullest device has, or the busiest thread."""
    return -(-members // places)


def _scanned(shared: Compiled, members: int) -> Execution:
    """One member at a time; the results get their axis on the host."""
    stretch, evaluate = jax.jit(shared.stretch, donate_argnums=1), jax.jit(shared.evaluate)

    def run(*args: Any) -> Any:
        state, metrics = stretch(*args)
        return state, _stack_on_host([metrics])

    return Execution(
        name="scanned", width=1, join=lambda trees: jax.tree.map(jnp.copy, trees[0]), part=lambda tree, i: tree,
        everywhere=jax.device_put, stretch=run, evaluate=lambda *args: _stack_on_host([evaluate(*args)]),
    )  # fmt: skip


def _threaded(shared: Compiled, members: int) -> Execution:
    """The same program as for one after another, and so the same bits, for a member on each processor of a CPU."""
    stretch, evaluate = in_threads(shared.stretch, donate_argnums=(1,)), in_threads(shared.evaluate)

    def stretched(numbers: Any, states: Any, resident: Any, index: Any, count: Any) -> Any:
        calls = [(own, state, resident, rows, count) for own, state, rows in zip(numbers, states, index, strict=True)]
        after, metrics = zip(*stretch(calls), strict=True)
        return after, _stack_on_host(metrics)

    return Execution(
        name="threads", width=min(members, machine.processors()),
        join=lambda trees: tuple(jax.tree.map(jnp.copy, tree) for tree in trees), part=_nth,
        everywhere=jax.device_put, stretch=stretched,
        evaluate=lambda states, *args: _stack_on_host(evaluate([(state, *args) for state in states])),
    )  # fmt: skip


def _vmapped(shared: Compiled, members: int) -> Execution:
    """Members as one batch, filled up with copies of the last: its size is in the last bits of what is computed."""
    width = min(members, _WIDEST)
    stretch = jax.vmap(shared.stretch, in_axes=(0, 0, None, 0, None))
    evaluate = jax.vmap(shared.evaluate, in_axes=(0, None, None, None))

    def join(trees: Sequence[Any]) -> Any:
        return _stack([*trees, *[trees[-1]] * (width - len(trees))])

    return Execution(
        name="vmapped", width=width, join=join, part=_part, everywhere=jax.device_put,
        stretch=jax.jit(stretch, donate_argnums=1), evaluate=jax.jit(evaluate),
    )  # fmt: skip


def _spread(shared: Compiled, members: int) -> Execution:
    """A block of members on each device, one after another there on a CPU and vmapped elsewhere.

    The last blocks are filled up with copies of the last member, so that all devices have as many.
    """
    devices = jax.local_devices()[: min(members, jax.local_device_count())]
    mesh = Mesh(np.array(devices), (AXIS,))
    split, whole = PartitionSpec(AXIS), PartitionSpec()
    full = _blocks(members, len(devices)) * len(devices)
    in_a_row = devices[0].platform == "cpu"

    def stretch(numbers: Any, state: Any, resident: Any, index: Any, count: Any) -> Any:
        if in_a_row:
            return jax.lax.map(
                lambda own: shared.stretch(own[0], own[1], resident, own[2], count), (numbers, state, index)
            )
        return jax.vmap(shared.stretch, in_axes=(0, 0, None, 0, None))(numbers, state, resident, index, count)

    def evaluate(state: Any, resident: Any, index: Any, mask: Any) -> Any:
        if in_a_row:
            return jax.lax.map(lambda own: shared.evaluate(own, resident, index, mask), state)
        return jax.vmap(shared.evaluate, in_axes=(0, None, None, None))(state, resident, index, mask)

    def on_devices(function: Any, in_specs: Any, out_specs: Any) -> Any:
        return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def join(trees: Sequence[Any]) -> Any:
        return jax.device_put(_stack([*trees, *[trees[-1]] * (full - len(trees))]), NamedSharding(mesh, split))

    return Execution(
        name="devices", width=members, join=join, part=_part,
        everywhere=lambda tree: jax.device_put(tree, NamedSharding(mesh, whole)),
        stretch=jax.jit(on_devices(stretch, (split, split, whole, split, whole), split), donate_argnums=1),
        evaluate=jax.jit(on_devices(evaluate, (split, whole, whole, whole), split)),
    )  # fmt: skip


def _stack_on_host(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _nth(trees: Sequence[Any], i: int) -> Any:
    return trees[i]


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _part(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda x: x[i], tree)
