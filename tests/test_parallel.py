"""Eight devices give the one-device result, in every layout, with ragged masks and BatchNorm."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from auxjax import parallel
from auxjax.errors import AuxjaxError
from auxjax.step import train_step
from tests import small
from tests.compilations import counted

pytestmark = pytest.mark.multidevice


def run(state: Any, resident: Any, batch: Any, axis_name: str | None = None) -> Any:
    return train_step(state, batch, axis_name=axis_name)


def train(mode: str, devices: int, dropout_rate: float = 0.0) -> tuple[Any, Any]:
    where = parallel.layout(mode, devices)
    state = small.state(small.program(small.heads(), dropout_rate))
    step = parallel.compile_train(where, run)
    placed = parallel.place_state(where, state)
    for seed in range(3):
        placed, metrics = step(placed, {}, parallel.place_batch(where, small.batch(seed=seed)))
    return jax.device_get(parallel.fetch_state(where, placed)), parallel.fetch_metrics(where, metrics)


@pytest.fixture(scope="module")
def one_device() -> Any:
    return train("jit", 1)


@pytest.mark.parametrize("mode", parallel.MODES)
def test_eight_devices_equal_one(mode: str, one_device: Any) -> None:
    with counted() as lowered:
        state, metrics = train(mode, 8)
    for name in ("params", "statistics", "opt_state"):
        for a, b in zip(
            jax.tree.leaves(getattr(state, name)), jax.tree.leaves(getattr(one_device[0], name)), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, one_device[1][name], rtol=2e-5, atol=2e-6)
    # pmap lowers the step under a name of its own.
    assert lowered["run"] + lowered["_fun"] == 1, lowered


def test_dropout_draws_the_same_bits_on_any_mesh() -> None:
    a, b = (train("jit", devices, dropout_rate=0.5)[0] for devices in (1, 8))
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6)


def test_fsdp_splits_the_large_arrays_of_parameters_and_optimizer() -> None:
    where = parallel.layout("fsdp", 8)
    array = np.zeros((16, 1024), np.float32)
    placed = parallel.place_state(where, {"large": jax.numpy.asarray(array), "small": jax.numpy.zeros((8,))})
    assert placed["large"].addressable_shards[0].data.shape == (16, 128)
    assert placed["small"].addressable_shards[0].data.shape == (8,)


def test_the_state_before_placing_survives_donation() -> None:
    where = parallel.layout("jit", 1)
    state = small.state(small.program({}))
    parallel.compile_train(where, run)(parallel.place_state(where, state), {}, small.batch())
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_errors_name_the_nearest_that_works() -> None:
    with pytest.raises(AuxjaxError, match="batch_size=30 is not divisible by 8 devices; the nearest that is: 32"):
        parallel.check_batch_size(parallel.layout("jit", 8), 30)
    with pytest.raises(AuxjaxError, match="sees 8 cpu device"):
        parallel.layout("jit", 9)
    with pytest.raises(AuxjaxError, match="did you mean 'fsdp'"):
        parallel.layout("fdsp")
