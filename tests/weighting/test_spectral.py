"""Aligned-MTL's scales, and IMTL-G and ConFIG by what they are made for."""

from __future__ import annotations

import numpy as np
import pytest

from auxjax.weighting import spectral
from tests.weighting.gramians import decided, directions, families


@pytest.mark.parametrize("scale", ["median", "rmse"])
def test_scales_of_aligned_mtl_are_those_of_torchjd(scale: str) -> None:
    torch, aggregation = pytest.importorskip("torch"), pytest.importorskip("torchjd.aggregation")
    for k in (3, 4):
        matrices = np.concatenate([families(k, np.float64)[family] for family in ("random", "rank_deficient")])
        weights = decided(spectral.aligned_mtl(scale), matrices)
        aggregate = aggregation.AlignedMTL(scale_mode=scale)
        expected = np.stack([aggregate(torch.tensor(matrix)).numpy() for matrix in matrices])
        np.testing.assert_allclose(directions(weights, matrices), expected, atol=1e-9)


def test_imtl_g_has_one_projection_on_every_unit_gradient_and_sums_to_one() -> None:
    matrices = np.concatenate([families(3, np.float64)[family] for family in ("random", "badly_scaled", "opposed")])
    weights = decided(spectral.imtl_g(), matrices)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-7)
    units = matrices / np.linalg.norm(matrices, axis=2, keepdims=True)
    projections = np.einsum("nkd,nd->nk", units, directions(weights, matrices))
    rounding = 1e-9 * np.abs(weights * np.linalg.norm(matrices, axis=2)).sum(axis=1, keepdims=True)
    assert np.all(np.abs(projections - projections.mean(axis=1, keepdims=True)) <= rounding)


def test_config_is_as_long_as_all_projections_and_has_one_cosine() -> None:
    matrices = np.concatenate([families(3, np.float64)[family] for family in ("random", "badly_scaled", "conflicting")])
    d = directions(decided(spectral.config(), matrices), matrices)
    length, norms = np.linalg.norm(d, axis=1, keepdims=True), np.linalg.norm(matrices, axis=2)
    products = np.einsum("nkd,nd->nk", matrices, d / length)
    np.testing.assert_allclose(products / norms, np.broadcast_to((products / norms)[:, :1], norms.shape), atol=1e-9)
    np.testing.assert_allclose(products.sum(axis=1), length[:, 0], rtol=1e-7)


def test_equal_weights_stand_in_where_nothing_equalises() -> None:
    opposed = np.array([[[1.0, 0.0], [-1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    np.testing.assert_array_equal(decided(spectral.imtl_g(), opposed), 0.5)
