"""Gradient sign dropout and the trimmed mean: what passes in each coordinate, in the mean, and as in TorchJD."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.weighting import elementwise
from tests.weighting.auxiliary_gradients import SIZE, Array, as_tree, families, steps
from tests.weighting.rollouts import Rollout, decided, everything, key_at, roll

GRADIENTS, DRAWS = steps(4, count=60, runs=1)[:, 0], 4000


def positive(g: Array) -> Array:
    return np.maximum(g, 0).sum(axis=-2)


def negative(g: Array) -> Array:
    return np.minimum(g, 0).sum(axis=-2)


@functools.cache
def dropped() -> tuple[Rollout, Rollout]:
    """Signs dropped from GRADIENTS, and DRAWS times from the first of them."""
    same = np.broadcast_to(GRADIENTS[:1], (DRAWS, *GRADIENTS.shape[1:]))
    result = roll(elementwise.grad_drop(), np.concatenate([GRADIENTS, same]))
    cut = len(GRADIENTS)
    return result._replace(directions=result.directions[:cut]), result._replace(directions=result.directions[cut:])


def test_one_sign_passes_in_every_coordinate_and_both_are_drawn() -> None:
    directions = dropped()[0].directions
    up, down = (np.isclose(directions, side(GRADIENTS)) for side in (positive, negative))
    assert np.all(up | down)
    purity = positive(GRADIENTS) / np.abs(GRADIENTS).sum(axis=-2)
    assert np.all(up[purity == 1]) and np.all(down[purity == 0])
    mixed = (purity > 0.2) & (purity < 0.8)
    assert 0.35 < up[mixed].mean() < 0.65


def test_the_mean_over_draws_is_the_closed_form() -> None:
    g, directions = GRADIENTS[0], dropped()[1].directions
    purity = positive(g) / np.abs(g).sum(axis=0)
    expected = np.sum(np.abs(g) * np.where(g > 0, purity, -(1 - purity)), axis=0)
    # Five standard errors of a draw between two values.
    error = 5 * np.sqrt(purity * (1 - purity) / DRAWS) * (positive(g) - negative(g))
    assert np.all(np.abs(directions.mean(axis=0) - expected) <= error + 1e-12)
    assert np.all(directions.std(axis=0)[(purity > 0) & (purity < 1)] > 0)


def test_a_weight_is_the_share_that_is_kept() -> None:
    up = np.isclose(dropped()[0].directions, positive(GRADIENTS)).reshape(len(GRADIENTS), 1, SIZE)
    kept = np.where(up, np.maximum(GRADIENTS, 0), np.minimum(GRADIENTS, 0))
    expected = np.sum(kept * GRADIENTS, axis=-1) / np.sum(GRADIENTS**2, axis=-1)
    np.testing.assert_allclose(dropped()[0].weights[: len(GRADIENTS)], expected, rtol=1e-9)


def test_a_leak_of_main_keeps_all_of_main() -> None:
    directions = roll(elementwise.grad_drop(main_leak=1.0), GRADIENTS).directions - GRADIENTS[:, 0]
    others = GRADIENTS[:, 1:]
    assert np.all(np.isclose(directions, positive(others)) | np.isclose(directions, negative(others)))


def test_grad_drop_equals_torchjd_under_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    aggregation = pytest.importorskip("torchjd.aggregation")
    leaks = [0.3, 0.1, 0.1, 0.1]
    ours = roll(elementwise.grad_drop(leak=0.1, main_leak=0.3), GRADIENTS[:5]).directions

    def uniform(index: Any) -> Any:
        leaves = jax.tree.leaves(as_tree(jnp.zeros(SIZE)))
        keys = jax.random.split(key_at(index), len(leaves))
        parts = [jax.random.uniform(k, x.shape, x.dtype).reshape(-1) for k, x in zip(keys, leaves, strict=True)]
        return jnp.concatenate(parts)

    with jax.enable_x64(True):
        draws = np.asarray(jax.jit(jax.vmap(uniform))(jnp.arange(5)))
    for index, g in enumerate(GRADIENTS[:5]):
        drawn = torch.tensor(draws[index])
        monkeypatch.setattr(torch, "rand", lambda *shape, drawn=drawn, **kind: drawn)
        theirs = aggregation.GradDrop(leak=torch.tensor(leaks, dtype=torch.float64))(torch.tensor(g))
        np.testing.assert_allclose(ours[index], theirs.numpy(), rtol=1e-12)


@pytest.mark.parametrize(("count", "trim"), [(5, 1), (5, 2), (4, 1)])
def test_trimmed_mean_equals_torchjd_and_scipy(count: int, trim: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    gradients = steps(count, count=4, runs=1)[:, 0]
    ours = roll(elementwise.trimmed_mean(trim=trim), gradients).directions
    np.testing.assert_allclose(ours, stats.trim_mean(gradients, (trim + 0.5) / count, axis=1), rtol=1e-12, atol=1e-12)
    aggregation, torch = pytest.importorskip("torchjd.aggregation"), pytest.importorskip("torch")
    theirs = [aggregation.TrimmedMean(trim)(torch.tensor(g)).numpy() for g in gradients]
    np.testing.assert_allclose(ours, np.stack(theirs), rtol=1e-12, atol=1e-12)


def test_trimmed_mean_of_two_is_their_mean_and_of_three_their_median() -> None:
    for count, expected in ((2, np.mean), (3, np.median)):
        gradients = steps(count, count=3, runs=1)[:, 0]
        result = roll(elementwise.trimmed_mean(trim=9), gradients)
        np.testing.assert_allclose(result.directions, expected(gradients, axis=1), rtol=1e-12)


def test_equal_gradients_share_what_is_kept() -> None:
    g = GRADIENTS[:3, :2]
    result = roll(elementwise.trimmed_mean(), np.concatenate([g, g], axis=1))
    np.testing.assert_allclose(result.weights, 0.25)
    np.testing.assert_allclose(result.directions, g.mean(axis=1))


@pytest.mark.parametrize("make", [elementwise.grad_drop, elementwise.trimmed_mean])
def test_hard_gradients_in_single_precision(make: Any) -> None:
    for count in (1, 4):
        hard = np.concatenate(list(families(count).values()))
        result = roll(make(), hard, dtype=np.float32)
        assert np.isfinite(result.weights).all() and np.isfinite(result.directions).all()
        if count == 1:
            np.testing.assert_array_equal(result.directions, hard[:, 0].astype(np.float32))
            np.testing.assert_array_equal(result.weights, 1)


def test_half_precision_stays_and_bad_parameters_are_errors() -> None:
    for method in (elementwise.grad_drop(), elementwise.trimmed_mean()):
        gradients = jax.ShapeDtypeStruct((2, SIZE), jnp.bfloat16)
        shapes = jax.eval_shape(lambda g, m=method: decided(m, everything(g, None, None), ()), gradients)
        assert shapes[0][1].dtype == jnp.bfloat16
    for make in (
        lambda: elementwise.grad_drop(leak=1.5), lambda: elementwise.grad_drop(main_leak=-0.1),
        lambda: elementwise.trimmed_mean(trim=-1),
    ):  # fmt: skip
        with pytest.raises(AuxjaxError, match="must be"):
            make()
