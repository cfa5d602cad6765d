"""Calls of one compiled function in threads: as many at a time as there are processors, and as memory allows."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax import machine
from auxjax.population import threads
from tests.compilations import counted


def cube(x: jax.Array) -> jax.Array:
    return jnp.sort((x @ x) @ x)


@pytest.mark.parametrize(("calls_in_memory", "most"), [(100.0, 6), (6.5, 3), (0.1, 1)])
def test_no_more_at_a_time_than_fit_into_half_of_the_memory(
    calls_in_memory: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = jax.jit(cube).lower(jnp.eye(100)).compile().memory_analysis()
    assert found is not None
    free = calls_in_memory * (found.temp_size_in_bytes + found.output_size_in_bytes)
    assert free >= calls_in_memory * 100 * 100 * 4
    asked: list[int] = []

    def pool(workers: int) -> ThreadPoolExecutor:
        asked.append(workers)
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(threads, "ThreadPoolExecutor", pool)
    monkeypatch.setattr(machine, "processors", lambda: 6)
    monkeypatch.setattr(machine, "memory", lambda: (1e12, free))
    calls = [(jnp.eye(100) * i,) for i in range(1, 8)]
    for i, result in enumerate(threads.in_threads(cube)(calls), start=1):
        np.testing.assert_array_equal(result, cube(jnp.eye(100) * i))
    assert asked == [most]


def test_as_many_calls_as_there_are_processors_run_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "processors", lambda: 2)
    both = threading.Barrier(2, timeout=60)

    def met(x: jax.Array) -> jax.Array:
        return jax.pure_callback(lambda x: x + float(both.wait() >= 0), x, x)

    assert threads.in_threads(met)([(jnp.float32(i),) for i in range(4)]) == [1, 2, 3, 4]


def test_each_shape_is_compiled_once_and_double_precision_stays() -> None:
    run = threads.in_threads(cube)
    with counted() as counter, jax.enable_x64(True):
        for size in (3, 4, 3):
            x = np.random.default_rng(0).random((size, size))
            results: list[Any] = run([(x * i,) for i in range(5)])
            for i, result in enumerate(results):
                assert result.dtype == jnp.float64
                np.testing.assert_allclose(result, np.sort((x * i) @ (x * i) @ (x * i)), rtol=1e-14)
    assert counter["cube"] == 2, counter


def test_what_one_call_raises_is_raised() -> None:
    def refused(x: jax.Array) -> jax.Array:
        raise ValueError("not this one")

    with pytest.raises(ValueError, match="not this one"):
        threads.in_threads(refused)([(jnp.ones(()),)])
