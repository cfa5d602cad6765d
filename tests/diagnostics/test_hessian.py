"""Hessian-vector products, eigenvalues and trace against `jax.hessian` in float64."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import auxjax
from auxjax.diagnostics.hessian import hessian, hessian_product, records
from auxjax.diagnostics.inference import coefficients, loss_sums, mean_losses
from auxjax.errors import AuxjaxError
from auxjax.heads import HEADS, Head
from auxjax.ops import library_form
from auxjax.state import Batch, TrainState
from auxjax.step import eval_step
from auxjax.trunk import named
from auxjax.weighting.protocol import CONSTANT, Update
from tests.diagnostics import tiny

CONV: dict[str, Any] = {"kind": "conv", "norm": "batch"}


@functools.cache
def net() -> tuple[TrainState, Batch]:
    """A convolutional network in the operations of `auxjax.ops`, with max pooling, and a batch with ragged masks."""
    return tiny.state(**CONV), tiny.batch()


def wide(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree)


@functools.cache
def dense() -> dict[str, np.ndarray]:
    """The Hessian of every loss, from the library's own operations in float64."""
    state, batch = net()
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree(wide(state.params["model"]))
        model = tiny.model(**CONV, dtype=jnp.float64, param_dtype=jnp.float64)
        attached = auxjax.attach(model, state.program.attached.heads)
        state = state.replace(
            params=wide(state.params), statistics=wide(state.statistics),
            program=state.program._replace(attached=attached),
        )  # fmt: skip

        def losses(flat: jax.Array) -> jax.Array:
            return mean_losses(state, {**state.params, "model": unravel(flat)}, wide(batch))

        with library_form():
            rows = np.asarray(jax.jit(jax.jacfwd(jax.jacrev(losses)))(flat))
    total = rows[0] + tiny.WEIGHTS["aux1"] * rows[1] + tiny.WEIGHTS["aux2"] * rows[2]
    return dict(zip(tiny.LOSSES, (*rows, total), strict=True))


@functools.cache
def records_by_loss() -> dict[str, dict[str, Any]]:
    state, batch = net()
    return {r["loss"]: r for r in records(state, batch, eigenvalues=4, steps=60, probes=2, samples=200)}


def test_products_in_pieces_are_those_of_the_dense_hessian() -> None:
    state, batch = net()
    vector = jax.random.normal(jax.random.key(5), (len(dense()["main"]),))
    run = jax.jit(lambda weights: hessian_product(state, batch, weights, 4)[0](vector))
    for loss in tiny.LOSSES:
        expected = dense()[loss] @ np.asarray(vector, np.float64)
        actual = run(coefficients(state, batch, loss))
        np.testing.assert_allclose(actual, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("loss", tiny.LOSSES)
def test_top_eigenvalues_and_trace_are_those_of_the_dense_hessian(loss: str) -> None:
    record, expected = records_by_loss()[loss], np.linalg.eigvalsh(dense()[loss])[::-1]
    np.testing.assert_allclose(record["eigenvalues"], expected[:4], atol=1e-4 * expected[0])
    residuals = np.asarray(record["residuals"])
    assert (residuals < 1e-2 * expected[0]).all()
    gaps = np.abs(np.asarray(record["eigenvalues"])[:, None] - expected[None]).min(1)
    assert (gaps <= residuals + 1e-5 * expected[0]).all()
    assert abs(record["trace"] - expected.sum()) < 4 * record["trace_error"]
    off = dense()[loss] - np.diag(np.diag(dense()[loss]))
    np.testing.assert_allclose(record["trace_error"], np.sqrt(2 * (off**2).sum() / 200), rtol=0.3)
    x, y = (np.asarray(record["density"][axis]) for axis in "xy")
    np.testing.assert_allclose(y.sum() * (x[1] - x[0]), 1, atol=5e-3)
    assert x[0] < expected[-1] and x[-1] > expected[0]


def test_above_its_tap_a_head_has_no_hessian() -> None:
    rows = np.split(dense()["aux1"], np.cumsum([x.size for x in jax.tree.leaves(net()[0].params["model"])])[:-1])
    zero = {path: not row.any() for path, row in zip(named(net()[0].params["model"]), rows, strict=True)}
    assert {path for path in zero if zero[path]} == {path for path in zero if not path.startswith("layer_1")}
    assert len(records_by_loss()["aux1"]["eigenvalues"]) == 4


def test_a_head_behind_a_stopped_gradient_has_a_hessian_of_zero() -> None:
    linear: Any = HEADS["linear"]
    state = tiny.state(heads={"aux1": Head("layer_1", linear(num_classes=tiny.CLASSES), stop_gradient=True)})
    record = hessian(state, tiny.batch(), loss="aux1", steps=3, samples=2, probes=1)
    assert set(record["eigenvalues"]) == {0.0} and (record["trace"], record["trace_error"]) == (0.0, 0.0)
    assert np.isfinite(record["density"]["y"]).all()


def test_losses_are_those_of_an_evaluation_and_do_not_depend_on_pieces() -> None:
    state, batch = tiny.state(norm="batch"), tiny.batch()

    @jax.jit
    def run(state: TrainState) -> Any:
        whole, pieces = (mean_losses(state, state.params, batch, pieces) for pieces in (1, 2))
        return eval_step(state, batch), whole, pieces, loss_sums(state, state.params, batch)[1]

    sums, whole, pieces, counts = run(state)
    expected = [float(sums[name]["loss"] / sums[name]["count"]) for name in tiny.LOSSES[:3]]
    np.testing.assert_allclose(whole, expected, rtol=1e-6)
    np.testing.assert_allclose(pieces, expected, rtol=1e-6)
    np.testing.assert_array_equal(counts, [6, 6, 6])


def test_total_has_the_weights_of_the_weighting() -> None:
    state, batch = net()
    np.testing.assert_allclose(coefficients(state, batch, "total"), [1, 0.3, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(coefficients(state, batch, "aux2"), [0, 0, 1])


def test_total_asks_a_weighting_that_looks_at_losses_or_gradients() -> None:
    state, batch = tiny.state(), tiny.batch()
    own = np.array([1, 0.3, 0.5])

    def weights(need: str, decide: Any) -> np.ndarray:
        looking = CONSTANT._replace(needs=frozenset({need}), update=lambda given, s: (Update(decide(given)), s))
        looked = state.replace(program=state.program._replace(weighting=looking))
        return np.asarray(coefficients(looked, batch, "total"))

    losses = np.asarray(jax.jit(mean_losses)(state, state.params, batch))
    np.testing.assert_allclose(weights("losses", lambda given: given.losses), own * own * losses, rtol=1e-5)
    found = weights("gramian", lambda given: jnp.sqrt(jnp.diag(given.gramian)))
    assert (found > 0).all() and len(set((found / own).tolist())) == 3


@pytest.mark.parametrize(
    ("keywords", "words"),
    [({"loss": "aux3"}, "aux1"), ({"steps": 0}, "steps"), ({"samples": 1}, "2"), ({"pieces": 3}, "3 equal pieces")],
)
def test_what_cannot_be_is_an_error(keywords: dict[str, Any], words: str) -> None:
    with pytest.raises(AuxjaxError, match=words):
        hessian(*net(), **keywords)
