"""The empirical kernel against an explicit Jacobian, and alignments against closed forms."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest

from auxjax.diagnostics.inference import apply
from auxjax.diagnostics.ntk import alignment, effective_rank, kernels, ntk, records
from auxjax.errors import AuxjaxError
from auxjax.state import Batch, TrainState
from auxjax.trunk import named
from tests.diagnostics import tiny

SIZE = 6


@functools.cache
def net() -> tuple[TrainState, Batch]:
    return tiny.state(kind="conv"), tiny.batch(SIZE)


@functools.cache
def jacobians() -> dict[str, dict[str, np.ndarray]]:
    """Each output's Jacobian by each array of the model, float64[n, C, size], from `jax.jacrev` of the whole batch."""
    state, batch = net()

    @jax.jit
    def run(model: Any) -> Any:
        return jax.jacrev(lambda m: apply(state, {**state.params, "model": m}, batch, state.program.names))(model)

    found = run(state.params["model"])
    return {
        name: {path: np.asarray(x, np.float64).reshape(SIZE, tiny.CLASSES, -1) for path, x in named(output).items()}
        for name, output in found.items()
    }


def explicit(name: str, paths: Any = None) -> np.ndarray:
    arrays = jacobians()[name]
    return np.asarray(sum(np.einsum("icp,jcp->ij", arrays[p], arrays[p]) for p in paths or arrays) / tiny.CLASSES)


def aligned(a: np.ndarray, b: np.ndarray) -> float:
    value = alignment(a, b)
    assert value is not None
    return value


def test_kernels_of_each_array_are_those_of_the_explicit_jacobian() -> None:
    """Six examples in blocks of four: a block meets another, and one that is filled up."""
    found = kernels(*net(), block=4)
    assert list(found) == ["main", "aux1", "aux2"]
    for name, kernel in found.items():
        for path, value in kernel.items():
            expected = explicit(name, [path])
            np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-5 * max(1, expected.max()))


def test_the_record_is_what_the_explicit_kernel_gives_on_examples_that_are_not_masked() -> None:
    state, batch = net()
    record = {r["loss"]: r for r in records(state, batch, block=4)}
    kept = {"main": [0, 1, 2, 3, 4], "aux1": [0, 1, 2, 3, 4], "aux2": [1, 2, 3, 4, 5]}
    labels = np.eye(tiny.CLASSES)[np.asarray(batch["label"])]
    for name, rows in kept.items():
        kernel = explicit(name)[np.ix_(rows, rows)]
        spectrum = np.linalg.eigvalsh(kernel)[::-1]
        np.testing.assert_allclose(record[name]["spectrum"], spectrum, rtol=1e-4, atol=1e-5 * spectrum[0])
        centre = np.eye(len(rows)) - 1 / len(rows)
        a, b = (centre @ k @ centre for k in (kernel, labels[rows] @ labels[rows].T))
        expected = np.trace(a @ b) / np.sqrt(np.trace(a @ a) * np.trace(b @ b))
        np.testing.assert_allclose(record[name]["alignment"], expected, rtol=1e-4)


def test_between_outputs_only_shared_parameters_count() -> None:
    record = ntk(*net(), loss="main", block=4)
    rows = np.ix_([1, 2, 3, 4], [1, 2, 3, 4])
    below = [p for p in jacobians()["main"] if not p.startswith("logits")]
    expected = aligned(explicit("main", below)[rows], explicit("aux2", below)[rows])
    assert not np.isclose(expected, aligned(explicit("main")[rows], explicit("aux2")[rows]))
    np.testing.assert_allclose(record["between"]["aux2"], expected, rtol=1e-4)
    assert list(record["between"]) == ["aux1", "aux2"]
    backwards = ntk(*net(), loss="aux2", block=4)["between"]["main"]
    np.testing.assert_allclose(backwards, expected, rtol=1e-4)


def test_alignment_ignores_scale_and_constant_and_is_one_with_itself() -> None:
    rng = np.random.default_rng(0)
    a, b = (x @ x.T for x in rng.normal(size=(2, 10, 3)))
    np.testing.assert_allclose(aligned(a, 5 * a + 2), 1)
    np.testing.assert_allclose(aligned(a, b), aligned(b, 3 * a + 7))
    labels = np.repeat(np.eye(2), 5, 0)
    np.testing.assert_allclose(aligned(labels @ labels.T, (2 * labels - 1) @ (2 * labels - 1).T), 1)
    assert alignment(a, np.zeros((10, 10))) is None


def test_effective_rank_counts_equal_eigenvalues() -> None:
    assert np.isclose(effective_rank(np.array([2.0, 2, 2, 0, 0])), 3) and effective_rank(np.zeros(3)) == 0
    assert 1 < effective_rank(np.array([10.0, 1, 0])) < 2


def test_what_cannot_be_is_an_error() -> None:
    with pytest.raises(AuxjaxError, match="aux1"):
        ntk(*net(), loss="aux3", block=4)
    with pytest.raises(AuxjaxError, match="block"):
        ntk(*net(), block=-1)
