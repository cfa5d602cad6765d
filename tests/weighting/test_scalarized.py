"""Scalarisations: weights are the slopes of the published function, by finite differences, closed forms and TorchJD."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.weighting.protocol import PROMISES
from auxjax.weighting.scalarized import METHODS, cosmos, gls, pbi, scale_invariant, stch
from tests.weighting.steps import Array, losses_of, rolled

LOSSES = losses_of(50, 3)


def ray(count: int, main: float) -> Array:
    return np.array([main, *[(1 - main) / (count - 1)] * (count - 1)])


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def boundary(losses: Array, main: float, penalty: float) -> float:
    unit = ray(len(losses), main) / np.linalg.norm(ray(len(losses), main))
    along = losses @ unit
    return float(along + penalty * np.linalg.norm(losses - along * unit))


FUNCTIONS: dict[str, tuple[Any, Callable[[Array], float]]] = {
    "gls": (gls(), lambda x: float(np.prod(x) ** (1 / len(x)))),
    "si": (scale_invariant(), lambda x: float(np.log(x).sum())),
    "stch": (stch(mu=0.5, warmup_steps=0), lambda x: float(len(x) * 0.5 * np.log(np.sum(x**2)))),
    "cosmos": (cosmos(0.7, 3.0), lambda x: float(ray(len(x), 0.7) @ x) - 3 * cosine(ray(len(x), 0.7), x)),
    "pbi": (pbi(0.3, 5.0), lambda x: boundary(x, 0.3, 5.0)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_weights_are_the_slopes_of_the_published_function(name: str) -> None:
    weighting, function = FUNCTIONS[name]
    weights, _ = rolled(weighting, LOSSES)
    for losses, found in zip(LOSSES, weights, strict=True):
        steps = np.diag(1e-5 * losses)
        slopes = [(function(losses + step) - function(losses - step)) / (2 * step.sum()) for step in steps]
        # Differences of values that are large beside the smallest loss cancel.
        noise = 1e-10 * abs(function(losses)) / (1e-5 * losses)
        assert np.all(np.abs(found - slopes) <= 1e-5 * np.abs(slopes) + noise)


def test_every_method_is_tested_here_and_promises_what_is_known() -> None:
    assert set(FUNCTIONS) == set(METHODS)
    assert all(method.promises <= set(PROMISES) for method in METHODS.values())


def test_gls_of_a_half_and_two_weighs_one_and_a_quarter() -> None:
    assert np.allclose(rolled(gls(), np.array([[0.5, 2.0]]))[0], [[1.0, 0.25]], rtol=1e-12)


def test_stch_warms_up_with_reciprocals_and_then_takes_the_mean_as_its_nadir() -> None:
    weights, state = rolled(stch(mu=0.3, warmup_steps=7), LOSSES)
    nadir = LOSSES[:7].mean(axis=0)
    assert np.allclose(weights[:7], 1 / LOSSES[:7], rtol=1e-9)
    powers = (LOSSES[7:] / nadir) ** (1 / 0.3)
    expected = 3 * powers / powers.sum(axis=1, keepdims=True) / LOSSES[7:]
    assert np.allclose(weights[7:], expected, rtol=1e-7)
    assert int(state.steps) == 7 and np.allclose(state.total, 7 * nadir)


def test_a_small_mu_gives_all_to_the_loss_that_is_worst_beside_its_nadir() -> None:
    losses = np.array([[1.0, 4.0, 2.0], [0.9, 1.0, 1.7]])
    weights, _ = rolled(stch(mu=1e-3, warmup_steps=1), losses)
    assert np.allclose(weights[1], [3 / 0.9, 0, 0], atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("count", [1, 2, 16])
def test_zero_tiny_huge_and_equal_losses_give_finite_weights_and_main_alone_gives_one(name: str, count: int) -> None:
    rows = np.stack([np.full(count, value) for value in (0.0, 1.0, 1e8, 1e-30, -1.0)] + [10.0 ** np.arange(count)])
    weights, _ = rolled(METHODS[name].make(), rows[:, ::-1], bits=32)
    assert weights.dtype == np.float32 and np.isfinite(weights).all()
    assert count > 1 or np.array_equal(weights, np.ones((6, 1)))


def test_a_loss_times_a_positive_number_does_not_turn_the_scale_invariant_ones() -> None:
    gradients = np.random.default_rng(1).normal(size=(3, 5))
    scale = np.array([1.0, 7.0, 0.02])
    for name in ("gls", "si", "stch"):
        make = METHODS[name].make
        made = make(warmup_steps=5) if name == "stch" else make()
        plain = rolled(made, LOSSES)[0] @ gradients
        scaled = rolled(made, LOSSES * scale)[0] @ (gradients * scale[:, None])
        assert np.allclose([cosine(a, b) for a, b in zip(plain, scaled, strict=True)], 1, atol=1e-9), name


def test_parity_with_torchjd() -> None:
    torch = pytest.importorskip("torch")
    peers = pytest.importorskip("torchjd.scalarization")
    preference = torch.tensor(ray(3, 0.7), dtype=torch.float64)
    nadir = torch.tensor(LOSSES[0])
    # TorchJD's STCH has neither logarithms nor the factor K.
    smooth = peers.STCH(mu=0.3, weights=torch.ones(3, dtype=torch.float64))
    pairs: list[tuple[Any, Callable[[Any], Any]]] = [
        (gls(), peers.GeometricMean()),
        (cosmos(0.7, 3.0), peers.COSMOS(3.0, preference)),
        (pbi(0.7, 2.0), peers.PBI(2.0, preference)),
        (stch(mu=0.3, warmup_steps=1), lambda x: 3 * smooth(torch.log(x / nadir))),
    ]
    for weighting, peer in pairs:
        weights, _ = rolled(weighting, LOSSES)
        for losses, found in list(zip(LOSSES, weights, strict=True))[1:]:
            values = torch.tensor(losses, requires_grad=True)
            (expected,) = torch.autograd.grad(peer(values), values)
            assert np.allclose(found, expected, rtol=1e-7, atol=1e-9)


def test_parameters_out_of_range_are_named() -> None:
    wrong: list[Callable[[], Any]] = [lambda: stch(mu=0.0), lambda: stch(warmup_steps=-1), lambda: pbi(1.5)]
    for make in (*wrong, lambda: cosmos(0.0)):
        with pytest.raises(AuxjaxError, match=r"stch needs|main_preference"):
            make()
