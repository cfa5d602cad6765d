"""Loss-based methods against transcriptions of their formulas in NumPy, their fixed points, and TorchJD."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.weighting.loss_based import METHODS, dwa, excess_mtl, famo, imtl_l, rlw, uncertainty
from auxjax.weighting.protocol import PROMISES, Signals
from tests.weighting.steps import Array, losses_of, rolled

STEPS, K = 50, 3
LOSSES, AFTER = losses_of(STEPS, K), losses_of(STEPS, K, seed=1)
GRADIENTS = np.random.default_rng(2).normal(size=(STEPS, K, 7)) * np.array([1.0, 1e-2, 30.0])[:, None]


class Adam:
    """Kingma and Ba 2015, algorithm 1, with the L2 penalty of torch.optim.Adam."""

    def __init__(self, rate: float, decay: float = 0.0) -> None:
        self.rate, self.decay, self.t = rate, decay, 0
        self.m, self.v = np.zeros(K), np.zeros(K)

    def __call__(self, x: Array, slope: Array) -> Array:
        slope, self.t = slope + self.decay * x, self.t + 1
        self.m, self.v = 0.9 * self.m + 0.1 * slope, 0.999 * self.v + 0.001 * slope**2
        mean, square = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return np.asarray(x - self.rate * mean / (np.sqrt(square) + 1e-8))


def softmax(x: Array) -> Array:
    return np.asarray(np.exp(x - x.max()) / np.exp(x - x.max()).sum())


def kendall(pinned: bool) -> Array:
    s, adam, rows = np.zeros(K), Adam(0.05), []
    s[0] = -np.log(2) if pinned else 0.0
    for losses in LOSSES:
        rows.append(0.5 * np.exp(-s))
        s = adam(s, np.array([0.0 if pinned else 1.0, 1, 1]) * (0.5 - 0.5 * np.exp(-s) * losses))
    return np.stack(rows)


def impartial() -> Array:
    s, adam, rows = np.zeros(K), Adam(0.05), []
    for losses in LOSSES:
        rows.append(np.exp(s))
        s = adam(s, np.exp(s) * losses - 1)
    return np.stack(rows)


def averaged(window: int, temperature: float) -> Array:
    rows = [np.ones(K)] * (2 * window)
    for step in range(2 * window, STEPS):
        n = step // window
        newer, older = (LOSSES[i * window : (i + 1) * window].mean(axis=0) for i in (n - 1, n - 2))
        rows.append(K * softmax(newer / older / temperature))
    return np.stack(rows)


def adaptive(decay: float) -> Array:
    xi, adam, rows = np.zeros(K), Adam(0.025, decay), []
    for before, after in zip(LOSSES + 1e-8, AFTER + 1e-8, strict=True):
        z = softmax(xi)
        rows.append(z / before / (z / before).sum())
        xi = adam(xi, (np.diag(z) - np.outer(z, z)) @ (np.log(before) - np.log(after)))
    return np.stack(rows)


def excess(step_size: float) -> Array:
    weights, squares, rows = np.ones(K), np.zeros_like(GRADIENTS[0]), []
    first = np.zeros(0)
    for gradients in GRADIENTS:
        squares = squares + gradients**2
        risks = (gradients**2 / np.sqrt(squares + 1e-7)).sum(axis=1)
        if first.size:
            weights = weights * np.exp(risks / first * step_size)
            weights = weights / weights.sum() * K
        else:
            first = risks
        rows.append(weights)
    return np.stack(rows)


FORMULAS: dict[str, tuple[Any, Callable[[], Array]]] = {
    "uncertainty": (uncertainty(0.05), lambda: kendall(False)),
    "uncertainty with main pinned": (uncertainty(0.05, main_pinned=True), lambda: kendall(True)),
    "imtl_l": (imtl_l(0.05), impartial),
    "dwa": (dwa(temperature=1.5, window_steps=7), lambda: averaged(7, 1.5)),
    "famo": (famo(decay=0.01), lambda: adaptive(0.01)),
    "excess_mtl": (excess_mtl(0.2), lambda: excess(0.2)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_fifty_steps_equal_the_formula(name: str) -> None:
    weighting, formula = FORMULAS[name]
    expected = formula()
    assert np.ptp(expected, axis=0).max() > 0.1
    assert np.allclose(rolled(weighting, LOSSES, AFTER, GRADIENTS)[0], expected, rtol=1e-8)


def test_every_method_is_tested_here_and_promises_what_is_known() -> None:
    assert set(METHODS) == {name.split()[0] for name in FORMULAS} | {"rlw"}
    assert all(method.promises <= set(PROMISES) for method in METHODS.values())


def test_uncertainty_and_imtl_rest_where_the_weight_is_the_reciprocal_of_the_loss() -> None:
    losses = np.array([0.5, 2.0, 7.0])
    rows = np.broadcast_to(losses, (1500, K))
    weights, state = rolled(uncertainty(0.05), rows)
    assert np.allclose(np.exp(state.values), losses, rtol=1e-4)
    assert np.allclose(weights[-1], 0.5 / losses, rtol=1e-4)
    assert np.allclose(rolled(imtl_l(0.05), rows)[0][-1], 1 / losses, rtol=1e-4)


def test_pinned_main_weighs_exactly_one() -> None:
    weights, state = rolled(uncertainty(0.3, main_pinned=True), LOSSES, bits=32)
    assert np.all(weights[:, 0] == 1) and float(state.values[0]) == pytest.approx(-np.log(2))


def test_random_weights_are_the_softmax_of_standard_normals() -> None:
    losses = np.ones((20_000, K))
    weights, _ = rolled(rlw(), losses)
    assert np.allclose(weights.sum(axis=1), 1, rtol=1e-12)
    # Differences of logarithms of a softmax are those of its inputs: normal with variance 2.
    differences = np.log(weights[:, 0]) - np.log(weights[:, 1])
    assert abs(differences.mean()) < 0.04 and abs(differences.var() - 2) < 0.08
    assert abs((differences**4).mean() / differences.var() ** 2 - 3) < 0.15
    assert abs(weights.mean(axis=0) - 1 / K).max() < 0.005


def test_famo_shifts_weight_from_the_loss_that_falls_to_those_that_do_not() -> None:
    before, after = np.ones((30, K)), np.broadcast_to(np.array([0.5, 1.0, 1.0]), (30, K))
    weights, _ = rolled(famo(), before, after)
    assert np.all(np.diff(weights[:, 0]) < 0) and np.allclose(weights[0], 1 / K)
    assert np.allclose(weights[:, 1], weights[:, 2]) and np.allclose(weights.sum(axis=1), 1)


def test_a_loss_that_starts_without_a_gradient_gets_its_reference_later() -> None:
    gradients = GRADIENTS.copy()
    gradients[:5, 1] = 0.0
    weights, state = rolled(excess_mtl(0.2), LOSSES, gradients=gradients)
    squares = gradients[5, 1] ** 2
    assert np.isfinite(weights).all() and np.allclose(weights.sum(axis=1), K)
    assert float(state.first[1]) == pytest.approx(float((squares / np.sqrt(squares + 1e-7)).sum()))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("count", [1, 16])
def test_extreme_signals_give_finite_weights_and_main_alone_gives_one(name: str, count: int) -> None:
    values = np.resize([0.0, 1e8, 1e-30, 1.0, -1.0, 1e4], (300, count))
    values[:150] = 0.0
    gradients = np.broadcast_to(values[:, :, None] * 1e4, (300, count, 2))
    weights, state = rolled(METHODS[name].make(), values, values[::-1], gradients, bits=32)
    assert weights.dtype == np.float32 and np.isfinite(weights).all()
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state))
    assert count > 1 or np.allclose(weights, 1.0, rtol=1e-6)


@pytest.mark.parametrize("learned", [uncertainty, imtl_l])
def test_a_loss_that_stays_zero_does_not_let_its_weight_run_away(learned: Callable[[float], Any]) -> None:
    weights, _ = rolled(learned(0.1), np.zeros((3000, 2)), bits=32)
    assert weights.max() < 1e10


def test_parity_with_torchjd() -> None:
    torch = pytest.importorskip("torch")
    peers = pytest.importorskip("torchjd.scalarization")
    aggregation = pytest.importorskip("torchjd.aggregation")
    rate = 0.05
    peer = {"uncertainty": peers.UW(K).double(), "imtl_l": peers.IMTLL(K).double()}
    peer |= {"famo": peers.FAMO(K, weight_decay=0.01).double(), "dwa": peers.DWA(temperature=1.5)}
    ours = {name: rolled(FORMULAS[name][0], LOSSES, AFTER, GRADIENTS)[0] for name in (*peer, "excess_mtl")}
    for name, scalarizer in peer.items():
        learned = list(scalarizer.parameters()) if name in ("uncertainty", "imtl_l") else []
        optimizer = torch.optim.Adam(learned, lr=rate) if learned else None
        for step, (before, after) in enumerate(zip(LOSSES, AFTER, strict=True)):
            values = torch.tensor(before, requires_grad=True)
            scalarizer(values).backward()
            assert np.allclose(ours[name][step], values.grad, rtol=1e-7), (name, step)
            if optimizer:
                optimizer.step()
                optimizer.zero_grad()
            elif name == "famo":
                scalarizer.update(torch.tensor(after))
            elif step % 7 == 6:
                scalarizer.step()
    # Its first step is a warm-up, as the authors' code has it; it adds 1e-7 to the first risks.
    robust = aggregation.ExcessMTLWeighting(robust_step_size=0.2, n_warmup_steps=1)
    expected = np.stack([K * np.asarray(robust(torch.tensor(gradients))) for gradients in GRADIENTS])
    assert np.allclose(ours["excess_mtl"], expected, rtol=1e-4)


def test_missing_signals_and_parameters_out_of_range_are_named() -> None:
    empty = Signals(jnp.int32(0), jnp.float32(0))
    for name, message in (("famo", "before and after"), ("excess_mtl", "gradients"), ("rlw", "draws")):
        weighting = METHODS[name].make()
        with pytest.raises(AuxjaxError, match=message):
            weighting.update(empty, weighting.init(("main",), jnp.zeros(1)))
    with pytest.raises(AuxjaxError, match="reads losses"):
        dwa().update(empty, dwa().init(("main",), None))
    with pytest.raises(AuxjaxError, match="window_steps"):
        dwa(window_steps=0)
