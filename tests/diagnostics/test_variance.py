"""The variance of gradients against the exact covariance over examples, and the ratios by brute force."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import auxjax
from auxjax.diagnostics import paired, variance
from auxjax.errors import AuxjaxError
from auxjax.state import TrainState
from tests.diagnostics.gradients import examples, flat, gradient, plain_state

WEIGHTS = np.array([1, 0.5, 2.0])
Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(scope="module")
def state() -> TrainState:
    return plain_state(2, {"layer_1": 0.5, "layer_2": 2.0}, width=3)


def per_example(state: TrainState, batch: Any) -> Array:
    """The gradients [4, n, P] of main, two heads and their weighted sum, example by example."""
    one = jax.tree.map(lambda x: x[:, None], batch)
    names = ("main", *state.program.names)
    rows = []
    for name in names:
        grads = jax.vmap(lambda b, name=name: gradient(state, b, name))(one)
        rows.append(np.stack([flat(jax.tree.map(lambda x, i=i: x[i], grads)) for i in range(len(batch["label"]))]))
    weights = WEIGHTS[: len(names)].reshape(-1, 1, 1)
    return np.stack([*rows, (weights * np.stack(rows)).sum(0)])


def test_parts_of_one_example_give_the_sample_covariance(state: TrainState) -> None:
    batch = examples(6)
    grads = per_example(state, batch)
    found = jax.jit(lambda s, b: variance.variance(s, b, parts=6))(state, batch)
    trace = grads.var(axis=1, ddof=1).sum(-1)
    square = np.square(grads.mean(1)).sum(-1) - trace / 6
    np.testing.assert_allclose(found["trace"], trace, rtol=1e-4)
    np.testing.assert_allclose(found["norm_squared"], square, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["noise_scale"], trace / square, rtol=1e-2)
    np.testing.assert_allclose(found["minibatch_trace"], trace / 6, rtol=1e-4)
    np.testing.assert_allclose(found["trace_by_layer"].sum(1), found["trace"], rtol=1e-5)
    np.testing.assert_allclose(found["norm_squared_by_layer"].sum(1), found["norm_squared"], rtol=1e-4, atol=1e-6)
    assert (np.asarray(found["trace_by_layer"])[1, 1:] == 0).all()  # nothing of aux1 above layer_1


def test_every_loss_has_its_own_number_of_examples_in_every_part(state: TrainState) -> None:
    attached = state.program.attached
    masked = dataclasses.replace(attached.heads["aux2"], mask="few")
    attached = auxjax.attach(attached.model, {**attached.heads, "aux2": masked})
    batch = examples(6) | {"few": jnp.array([1.0, 1, 1, 0, 0, 1])}
    measure = jax.jit(lambda s, b: variance.variance(s, b, parts=3))
    found = measure(state.replace(program=state.program._replace(attached=attached)), batch)
    grads = per_example(state, examples(6))[2]
    parts = [grads[[0]], grads[[1]], grads[[2, 5]]]  # part i has every third example from i, of which the mask keeps
    counts = np.array([1, 1, 2])
    means = np.stack([part.mean(0) for part in parts])
    whole = (counts[:, None] * means).sum(0) / 4
    trace = (counts * np.square(means).sum(-1)).sum() - 4 * np.square(whole).sum()
    np.testing.assert_allclose(found["trace"][2], trace / 2, rtol=1e-4)
    np.testing.assert_allclose(found["norm_squared"][2], np.square(whole).sum() - trace / 2 / 4, rtol=1e-3, atol=1e-5)


def test_the_estimates_are_unbiased(state: TrainState) -> None:
    """Over batches drawn from sixteen examples, with parts of two and some masked, the means are exact to the noise."""
    everything, draws = examples(16), 3000
    grads = per_example(state, everything)
    trace, square = grads.var(axis=1).sum(-1), np.square(grads.mean(1)).sum(-1)
    index = jax.random.randint(jax.random.key(5), (draws, 8), 0, 16)
    mask = jnp.array([1.0, 1, 1, 0, 1, 1, 0, 0])  # parts of 2, 1, 2 and 0 examples: every fourth starts a part

    @jax.jit
    def run(state: TrainState) -> Any:
        def one(chosen: jax.Array) -> Any:
            batch = {name: array[chosen] for name, array in everything.items()} | {"mask": mask}
            found = variance.variance(state, batch, parts=4)
            return found["trace"], found["norm_squared"]

        return jax.lax.map(one, index, batch_size=500)

    for estimates, exact in zip(run(state), (trace, square), strict=True):
        values = np.asarray(estimates, np.float64)
        error = values.std(0) / np.sqrt(draws)
        assert (error < 0.02 * trace).all(), (error, trace)  # a bias would be a fifth of the trace
        assert (np.abs(values.mean(0) - exact) < 4 * error).all(), (values.mean(0), exact, error)


def test_too_few_examples_are_none_and_a_remainder_is_left_out() -> None:
    state, measure = plain_state(1, {}, width=2), jax.jit(variance.variance)
    assert np.isnan(measure(state, examples(1))["trace"]).all()
    whole, longer = examples(16), examples(19, seed=3)
    longer = {name: array.at[:16].set(whole[name]) for name, array in longer.items()}
    np.testing.assert_allclose(measure(state, longer)["trace"], measure(state, whole)["trace"], rtol=1e-5)


def brute(grads: Array) -> Array:
    """The three ratios total / main from minibatch gradients [2, B, P], by their definitions."""
    count = grads.shape[1]
    trace = grads.var(axis=1, ddof=1).sum(-1)
    signal = np.square(grads.mean(1)).sum(-1) - trace / count
    scales = np.stack([trace, trace / signal, trace / np.square(grads).sum(-1).mean(1)])
    return np.asarray(scales[:, 1] / scales[:, 0])


def test_paired_ratios_and_their_jackknife_are_those_by_brute_force(state: TrainState) -> None:
    batches = [examples(4, seed) for seed in range(6)]
    found = paired.over(state, batches)
    grads = [[gradient(state, b, name) for b in batches] for name in ("main", "aux1", "aux2")]
    trunk = ("layer_1", "layer_2")  # logits, which main alone reaches, is left out
    rows = np.stack([[flat({n: g[n] for n in trunk}) for g in row] for row in grads])
    both = np.stack([rows[0], (WEIGHTS.reshape(-1, 1, 1) * rows).sum(0)])
    assert found["layers"] == list(trunk)
    np.testing.assert_allclose(found["trace"], both.var(axis=1, ddof=1).sum(-1), rtol=1e-4)
    whole = np.log(brute(both))
    left_out = np.log(np.stack([brute(np.delete(both, j, axis=1)) for j in range(6)]))
    error = np.sqrt(5 / 6 * np.square(left_out - left_out.mean(0)).sum(0))
    for i, name in enumerate(("trace", "noise_to_signal", "equal_norm")):
        ratio = found["ratio"][name]
        np.testing.assert_allclose(ratio["value"], np.exp(whole[i]), rtol=1e-3)
        for end, sign in (("low", -1), ("high", 1)):  # 2.5706 is Student's t at 97.5 %, 5 degrees of freedom
            np.testing.assert_allclose(ratio[end], np.exp(whole[i] + sign * 2.5706 * error[i]), rtol=1e-2)


def test_without_heads_the_ratios_are_one_and_a_few_batches_are_refused() -> None:
    state = plain_state(2, {}, width=3)
    batches = [examples(4, seed) | {"label": jnp.zeros(4, jnp.int32)} for seed in range(4)]
    for ratio in paired.over(state, batches)["ratio"].values():
        assert ratio["value"] == ratio["low"] == ratio["high"] == 1
    with pytest.raises(AuxjaxError, match="at least three of them, not 2"):
        paired.over(state, batches[:2])
    with pytest.raises(AuxjaxError, match="into 32 batches: 20 are too few"):
        paired.records(state, examples(20))
