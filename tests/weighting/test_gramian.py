"""Symmetric methods over the Gramian: TorchJD, closed forms for two losses, and what they promise."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize

from auxjax.errors import AuxjaxError
from auxjax.weighting import gradnorm, gramian, spectral, surgery
from auxjax.weighting.protocol import Weighting
from tests.weighting.gramians import Array, decided, directions, families, losses_of, shortest_in_hull

METHODS = gramian.METHODS | spectral.METHODS | surgery.METHODS | gradnorm.METHODS
# Families with a direction in which every loss falls by far, and those with one that is hard to find.
PLAIN = ("random", "conflicting", "zero_rows")
DESCENDING = (*PLAIN, "parallel", "opposed", "badly_scaled")


@functools.cache
def over_families(name: str, k: int, dtype: Any) -> dict[str, tuple[Array, Array]]:
    """Returns (gradient matrices [N, K, d], weights [N, K]) by family."""
    matrices = families(k, np.float64)
    weights = decided(METHODS[name].make(), np.concatenate(list(matrices.values())), dtype)
    return dict(zip(matrices, zip(matrices.values(), np.split(weights, len(matrices)), strict=True), strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_weights_are_finite_in_single_precision(name: str) -> None:
    for family, (_, weights) in over_families(name, 3, np.float32).items():
        assert np.all(np.isfinite(weights)), family


@pytest.mark.slow_study
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_of_sixteen_are_finite(name: str, dtype: Any) -> None:
    for family, (_, weights) in over_families(name, 16, dtype).items():
        assert np.all(np.isfinite(weights)), family


@pytest.mark.parametrize("name", METHODS)
def test_main_alone_has_weight_one(name: str) -> None:
    for family, (_, weights) in over_families(name, 1, np.float32).items():
        np.testing.assert_array_equal(weights, 1, err_msg=family)


EVERY = (*DESCENDING, "rank_deficient", "zero")
# The last is how closely the peer itself solves its problem, at tolerances as tight as its solver takes. Left out is
# where it does not: CAGrad where a gradient is 0 (any direction near the mean that harms none will do) or the gains are
# next to nothing, FairGrad where the mean is nearly 0 or norms differ by far, IMTL-G where its pseudo-inverse drops
# directions, Aligned-MTL where norms differ by more than a Gramian in double precision can tell.
PEERS: dict[str, tuple[str, dict[str, Any], tuple[str, ...], float]] = {
    "cagrad": ("CAGrad", {"c": 0.4, "norm_eps": 0.0}, ("random", "conflicting", "parallel", "rank_deficient"), 1e-5),
    "upgrad": ("UPGrad", {}, EVERY, 1e-6),
    "dual_proj": ("DualProj", {}, EVERY, 1e-6),
    "fair_grad": ("FairGrad", {"alpha": 2.0}, (*PLAIN, "parallel", "zero"), 1e-6),
    "imtl_g": ("IMTLG", {}, (*PLAIN, "parallel", "opposed", "zero"), 1e-6),
    "config": ("ConFIG", {}, EVERY, 1e-6),
    "aligned_mtl": ("AlignedMTL", {}, (*PLAIN, "parallel", "opposed", "rank_deficient", "zero"), 1e-6),
}


# What the peer solves its problem with, which does not come with it.
SOLVERS = {
    "cagrad": ("cvxpy", "clarabel"), "upgrad": ("qpsolvers", "quadprog"), "dual_proj": ("qpsolvers", "quadprog"),
}  # fmt: skip
AS_THERE: dict[str, dict[str, Any]] = {name: {"regularisation": 1e-4} for name in ("upgrad", "dual_proj")}


def tighten(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the peer's solver go on until it can do no better: it stops at 1e-8 of the objective, 1e-4 of the weights."""
    if name == "cagrad":
        solve, ends = pytest.importorskip("cvxpy").Problem.solve, ("tol_gap_abs", "tol_gap_rel", "tol_feas")
        on = functools.partialmethod(solve, **dict.fromkeys(ends, 1e-16), tol_ktratio=1e-12)
        monkeypatch.setattr("cvxpy.Problem.solve", on)
    if name == "fair_grad":
        further = functools.partial(scipy.optimize.least_squares, ftol=1e-15, xtol=1e-15, gtol=1e-15, max_nfev=10_000)
        monkeypatch.setattr("torchjd.aggregation._fairgrad.least_squares", further)


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
@pytest.mark.parametrize("k", [3, *(pytest.param(k, marks=pytest.mark.slow_study) for k in (2, 5, 16))])
@pytest.mark.parametrize("name", PEERS)
def test_direction_is_that_of_torchjd(name: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch, aggregation = pytest.importorskip("torch"), pytest.importorskip("torchjd.aggregation")
    peer, arguments, names, precision = PEERS[name]
    for solver in SOLVERS.get(name, ()):
        pytest.importorskip(solver)
    tighten(name, monkeypatch)
    aggregate = getattr(aggregation, peer)(**arguments)
    for family in names:
        matrices, weights = over_families(name, k, np.float64)[family]
        expected = np.stack([aggregate(torch.tensor(matrix)).numpy() for matrix in matrices])
        if name in AS_THERE:
            weights = decided(METHODS[name].make(**AS_THERE[name]), matrices)
        expected = expected / (1.4 if name == "cagrad" else 1.0)
        error = np.linalg.norm(directions(weights, matrices) - expected, axis=1)
        assert np.all(error <= precision * np.linalg.norm(expected, axis=1)), family


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
@pytest.mark.parametrize("k", [3, *(pytest.param(k, marks=pytest.mark.slow_study) for k in (2, 5, 16))])
def test_cagrads_worst_loss_gains_no_less_than_torchjds(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On every family: what CAGrad maximises is what it is judged by, where directions of one gain differ."""
    torch, aggregation = pytest.importorskip("torch"), pytest.importorskip("torchjd.aggregation")
    pytest.importorskip("clarabel")
    tighten("cagrad", monkeypatch)
    aggregate = aggregation.CAGrad(c=0.4, norm_eps=0.0)
    for family, (matrices, weights) in over_families("cagrad", k, np.float64).items():
        if family == "zero":
            continue
        for matrix, direction in zip(matrices, 1.4 * directions(weights, matrices), strict=True):
            theirs = aggregate(torch.tensor(matrix)).numpy()
            rounding = 1e-9 * np.linalg.norm(matrix, axis=1) * np.linalg.norm(direction)
            assert np.all((matrix @ direction).min() >= (matrix @ theirs).min() - rounding.max()), family
            mean = matrix.mean(0)
            assert np.linalg.norm(direction - mean) <= 0.4 * np.linalg.norm(mean) * (1 + 1e-9), family


@pytest.mark.parametrize("name", PEERS)
def test_single_precision_has_the_direction_of_double(name: str) -> None:
    for family in PLAIN:
        matrices, weights = over_families(name, 3, np.float32)[family]
        expected = directions(over_families(name, 3, np.float64)[family][1], matrices)
        error = np.linalg.norm(directions(weights, matrices) - expected, axis=1)
        # Where gradients are in conflict, rounding is that of the terms and not of their sum.
        assert np.all(error <= 1e-5 * np.linalg.norm(weights[..., None] * matrices, axis=2).sum(axis=1)), family


def _mgda(g: Array) -> list[float]:
    share = np.clip((g[1, 1] - g[0, 1]) / (g[0, 0] + g[1, 1] - 2 * g[0, 1]), 0, 1)
    return [share, 1 - share]


def _config(g: Array) -> list[float]:
    # The bisector of two unit gradients, (n_0 + n_1) cos(half their angle) long.
    norms = np.sqrt(np.diag(g))
    return list(norms.sum() / 2 / norms)


def _aligned_mtl(g: Array) -> list[float]:
    # The root of a 2 x 2 matrix by Cayley and Hamilton: A^(1/2) = (A + root of its determinant) / (its root's trace).
    root = np.sqrt(np.linalg.det(g))
    half = (g + root * np.eye(2)) / np.sqrt(np.trace(g) + 2 * root)
    least = (np.trace(g) - np.hypot(g[0, 0] - g[1, 1], 2 * g[0, 1])) / 2
    return list(np.sqrt(least) * np.linalg.inv(half) @ [0.5, 0.5])


def _project_mean(g: Array) -> list[float]:
    # No more of the other gradient than takes the mean out of conflict.
    if (g[0] + g[1]).min() >= 0:
        return [0.5, 0.5]
    harmed = int(np.argmin(g[0] + g[1]))
    needed = -0.5 * g[0, 1] / g[harmed, harmed]
    return [needed, 0.5] if harmed == 0 else [0.5, needed]


CLOSED_FORMS: dict[str, tuple[Callable[[], Weighting], Callable[[Array], Any]]] = {
    "mgda": (gramian.mgda, _mgda),
    "upgrad": (
        lambda: gramian.upgrad(regularisation=0.0),
        lambda g: [0.5 + max(0.0, -g[0, 1]) / 2 / g[i, i] for i in (0, 1)],
    ),
    "dual_proj": (lambda: gramian.dual_proj(regularisation=0.0), _project_mean),
    "nash_mtl": (
        gramian.nash_mtl,
        lambda g: [1 / np.sqrt(g[i, i] + g[0, 1] * np.sqrt(g[i, i] / g[1 - i, 1 - i])) for i in (0, 1)],
    ),
    "imtl_g": (spectral.imtl_g, lambda g: np.sqrt(np.diag(g))[::-1] / np.sqrt(np.diag(g)).sum()),
    "config": (spectral.config, _config),
    "aligned_mtl": (spectral.aligned_mtl, _aligned_mtl),
    "pcgrad": (surgery.pcgrad, lambda g: [1 + max(0.0, -g[0, 1]) / g[i, i] for i in (0, 1)]),
    "gradvac": (surgery.gradvac, lambda g: [1 + max(0.0, -g[0, 1]) / g[i, i] for i in (0, 1)]),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_two_losses_have_the_closed_form(name: str) -> None:
    make, closed_form = CLOSED_FORMS[name]
    # A Gramian of norms that differ by 1e8 has no second eigenvalue within rounding.
    names = ("random", "conflicting", *(() if name == "aligned_mtl" else ("badly_scaled",)))
    matrices = np.concatenate([families(2, np.float64)[family] for family in names])
    weights = decided(make(), matrices)
    expected = np.array([closed_form(matrix @ matrix.T) for matrix in matrices])
    np.testing.assert_allclose(weights, expected, rtol=1e-7)


@pytest.mark.parametrize("name", ["mgda", "nash_mtl", "fair_grad"])
def test_no_loss_rises_to_first_order(name: str) -> None:
    assert {"main_first", "all_descend"} <= METHODS[name].promises
    for family in DESCENDING:
        matrices, weights = over_families(name, 3, np.float64)[family]
        d = directions(weights, matrices)
        terms = np.linalg.norm(matrices, axis=2) * np.linalg.norm(d, axis=1)[:, None]
        assert np.all(np.einsum("nkd,nd->nk", matrices, d) >= -1e-9 * terms), family


@pytest.mark.parametrize("name", ["mgda", "nash_mtl", "fair_grad"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_that_balance_each_other_out_move_nothing(name: str, dtype: Any) -> None:
    matrices, weights = over_families(name, 3, dtype)["rank_deficient"]
    balanced = [np.linalg.norm(shortest_in_hull(matrix)) < 1e-12 for matrix in matrices]
    assert any(balanced) and not all(balanced)
    np.testing.assert_array_equal(np.all(weights == 0, axis=1), balanced)


@pytest.mark.parametrize("normalizer", ["l2", "loss", "loss+"])
def test_normalized_mgda_harms_no_loss_and_is_the_shortest(normalizer: str) -> None:
    matrices = np.concatenate([families(3, np.float64)[family] for family in ("random", "badly_scaled")])
    d = directions(decided(gramian.mgda(normalizer), matrices), matrices)
    norms = np.linalg.norm(matrices, axis=2)
    by = (norms if normalizer != "loss" else 1) * (losses_of(3) if "loss" in normalizer else 1) * np.ones_like(norms)
    products = np.einsum("nkd,nd->nk", matrices, d) / by
    np.testing.assert_allclose(products.min(axis=1), np.sum(d**2, axis=1), rtol=1e-7)


@pytest.mark.parametrize("make", [gramian.upgrad, gramian.dual_proj])
def test_projections_without_regularisation_harm_no_loss(make: Callable[..., Weighting]) -> None:
    matrices = np.concatenate([families(3, np.float64)[family] for family in DESCENDING])
    d = directions(decided(make(regularisation=0.0), matrices), matrices)
    terms = np.linalg.norm(matrices, axis=2) * np.linalg.norm(d, axis=1)[:, None]
    assert np.all(np.einsum("nkd,nd->nk", matrices, d) >= -1e-9 * terms)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if "symmetric" in m.promises and n != "gradnorm"])
def test_permuted_losses_have_permuted_weights(name: str) -> None:
    order, both = np.array([2, 0, 1]), over_families(name, 3, np.float64)
    permuted = decided(METHODS[name].make(), np.concatenate([matrices[:, order] for matrices, _ in both.values()]))
    for (family, (_, weights)), found in zip(both.items(), np.split(permuted, len(both)), strict=True):
        if family in PLAIN:
            np.testing.assert_allclose(found, weights[:, order], rtol=1e-7, atol=1e-12, err_msg=family)


def test_nash_mtl_has_one_length_and_ignores_the_scale_of_losses() -> None:
    matrices, weights = over_families("nash_mtl", 3, np.float64)["random"]
    d = directions(weights, matrices)
    np.testing.assert_allclose(np.linalg.norm(d, axis=1), np.sqrt(3))
    scaled = matrices * np.array([1e-5, 1.0, 1e3]).reshape(1, 3, 1)
    np.testing.assert_allclose(directions(decided(gramian.nash_mtl(), scaled), scaled), d, rtol=1e-7, atol=1e-9)
    shortened = directions(decided(gramian.nash_mtl(max_norm=0.5), matrices), matrices)
    np.testing.assert_allclose(shortened, d * 0.5 / np.sqrt(3), rtol=1e-7, atol=1e-12)


def test_cagrad_of_no_radius_or_of_equal_gradients_is_the_mean() -> None:
    equal = np.ones((1, 2, 3))
    np.testing.assert_allclose(directions(decided(gramian.cagrad(), equal), equal), 1, rtol=1e-9)
    matrices = np.concatenate(list(families(2, np.float64).values()))
    np.testing.assert_array_equal(decided(gramian.cagrad(radius=0.0), matrices), 1 / 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: gramian.mgda("l3"),
        lambda: gramian.cagrad(radius=-1.0),
        lambda: gramian.upgrad(regularisation=-1.0),
        lambda: gramian.dual_proj(regularisation=-1.0),
        lambda: gramian.nash_mtl(max_norm=-1.0),
        lambda: gramian.fair_grad(alpha=0.0),
        lambda: spectral.aligned_mtl("max"),
        lambda: surgery.gradvac(decay=1.5),
        lambda: gradnorm.gradnorm(learning_rate=0.0),
    ],
)
def test_a_parameter_out_of_range_is_an_error(make: Callable[[], Weighting]) -> None:
    with pytest.raises(AuxjaxError):
        make()
