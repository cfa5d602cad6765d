"""Every method in the training step: it trains, resumes exactly, compiles once, and is the same on eight devices."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import auxjax
from auxjax import parallel
from auxjax.head_gradients import trunk_of
from auxjax.heads import Head
from auxjax.step import Main, Program, TrainState, create_state, train_step
from auxjax.weighting import METHODS, choose

CLASSES, SIZE, STEPS = 5, 32, 6
NAMES = list(METHODS)
# One for each thing that a method may look at or keep; the step is the same program for the others.
QUICK = ("uncertainty", "famo", "excess_mtl", "pcgrad", "gcs", "bloop", "mt_adam", "auxi_learn", "policy")
ON_EIGHT = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow_study]) for name in NAMES]
# And one for each file of methods.
TRAINED = (*QUICK, "gls", "aligned_mtl", "gradnorm", "pcd", "meta_balance", "moco", "auto_lambda", "exp3")
IN_A_STEP = [pytest.param(name, marks=[] if name in TRAINED else [pytest.mark.slow_study]) for name in NAMES]


class Net(nn.Module):
    """Three hidden layers, small enough that a method's own program is most of what is compiled."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for i in range(3):
            x = nn.tanh(nn.Dense(8, name=f"layer_{i}")(x))
        return nn.Dense(CLASSES, name="logits")(x)


def program(config: dict[str, Any]) -> Program:
    heads = {f"aux{i}": Head(f"layer_{i}", nn.Dense(CLASSES), weight=0.5) for i in (0, 1)}
    chosen = choose(config)
    return Program(
        auxjax.attach(Net(), heads), Main(), tuple(heads), lambda p: jnp.array([1.0, 0.5, 0.5]), optax.sgd(0.3),
        total_steps=STEPS, weighting=chosen.weighting, trunk=chosen.trunk, pullbacks=chosen.pullbacks,
        learning_rate=lambda step: 0.3, inputs=("x",),
    )  # fmt: skip


def batches() -> dict[str, jax.Array]:
    """The same learnable examples at every step, [STEPS, SIZE, ...]."""
    x = jax.random.normal(jax.random.key(0), (SIZE, 6))
    label = jnp.argmax(x[:, :CLASSES], 1)
    return {"x": jnp.stack([x] * STEPS), "label": jnp.stack([label] * STEPS)}


def first(program: Program) -> TrainState:
    variables = program.attached.init(jax.random.key(1), jnp.zeros((1, 6)))
    batch = jax.tree.map(lambda x: x[0], batches())
    trunk = trunk_of(program, variables, batch) if program.weighting.needs else None
    return create_state(program, variables, jax.random.key(2), trunk)


@functools.cache
def trained(name: str) -> tuple[list[TrainState], list[dict[str, float]]]:
    """The states after 0 to STEPS steps on one device, and the metrics."""
    step: Any = jax.jit(train_step)
    known = step._cache_size()  # jitted versions of one function share it
    states, metrics = [first(program({"name": name}))], []
    for i in range(STEPS):
        state, measured = step(states[-1], jax.tree.map(lambda x, i=i: x[i], batches()))
        states.append(state)
        metrics.append({key: float(value) for key, value in measured.items()})
    assert step._cache_size() == known + 1, "the state changes its shapes or dtypes"
    return states, metrics


def equal(a: Any, b: Any, tolerance: float = 0.0) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", IN_A_STEP)
def test_it_trains_and_says_its_weights(name: str) -> None:
    states, metrics = trained(name)
    assert all(np.isfinite(value) for row in metrics for value in row.values())
    assert metrics[-1]["loss/main"] < metrics[0]["loss/main"]
    assert {"weight/main", "weight/aux0", "weight/aux1"} <= set(metrics[0])
    # Every parameter learns, those of the heads too.
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), states[0].params, states[-1].params)
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("name", ["mt_adam", "sdmgrad"])
def test_the_first_state_can_be_donated(name: str) -> None:
    state = first(program({"name": name}))
    buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((state.params, state.weighting_state))]
    assert len(set(buffers)) == len(buffers)


@pytest.mark.parametrize("name", IN_A_STEP)
def test_it_resumes_with_the_same_bits_and_calls_no_host(name: str) -> None:
    states, _ = trained(name)
    flat, structure = jax.tree.flatten(states[3])
    saved = [x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else jnp.asarray(np.asarray(x)) for x in flat]
    step = jax.jit(train_step)
    state = jax.tree.unflatten(structure, saved)
    for i in range(3, STEPS):
        state, _ = step(state, jax.tree.map(lambda x, i=i: x[i], batches()))
    equal(state, states[-1])
    batch = jax.tree.map(lambda x: x[0], batches())
    assert "callback" not in step.lower(states[0], batch).as_text()


@pytest.mark.multidevice
@pytest.mark.parametrize("name", ON_EIGHT)
def test_eight_devices_give_what_one_gives(name: str) -> None:
    states, _ = trained(name)
    where = parallel.layout("jit", 8)
    step = parallel.compile_train(where, lambda state, _, batch: train_step(state, batch))
    state = parallel.place_state(where, states[0])
    for i in range(2):
        state, _ = step(
            state, None, parallel.place_batch(where, jax.tree.map(lambda x, i=i: np.asarray(x[i]), batches()))
        )
    equal(state.params, states[2].params, 1e-4)


@pytest.mark.multidevice
@pytest.mark.parametrize("name", ["gcs", "bloop", "famo", "uncertainty"])
def test_pmap_gives_what_one_device_gives(name: str) -> None:
    states, _ = trained(name)
    where = parallel.layout("pmap", 8)
    step = parallel.compile_train(
        where, lambda state, _, batch, axis_name: train_step(state, batch, axis_name=axis_name)
    )
    state = parallel.place_state(where, states[0])
    for i in range(2):
        state, _ = step(
            state, None, parallel.place_batch(where, jax.tree.map(lambda x, i=i: np.asarray(x[i]), batches()))
        )
    equal(parallel.fetch_state(where, state).params, states[2].params, 1e-4)


@pytest.mark.parametrize(
    "around",
    [
        {"trunk": "taps"}, {"trunk": "layer_0"}, {"trunk": "shallowest"}, {"pullbacks": "vmapped"},
        {"normalize": "sum_k"}, {"warm_up_steps": 2}, {"every_steps": 3}, {"ema": 0.5},
        {"schedule": {"name": "linear_decay"}},
    ],
    ids=str,
)  # fmt: skip
def test_what_goes_around_a_method_trains_too(around: dict[str, Any]) -> None:
    built = program({"name": "pri_pcgrad", **around})
    step: Any = jax.jit(train_step)
    state = first(built)
    known, losses = step._cache_size(), []
    for i in range(STEPS):
        state, metrics = step(state, jax.tree.map(lambda x, i=i: x[i], batches()))
        losses.append(float(metrics["loss/main"]))
    assert step._cache_size() == known + 1 and losses[-1] < losses[0]
