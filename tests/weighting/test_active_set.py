"""The active-set solver against every set of constraints, in float64 and float32, up to fifteen vectors."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from auxjax.weighting.active_set import nearest_feasible, quotient
from tests.weighting.auxiliary_gradients import Array


def least_distance(vectors: Array, needed: Array) -> float | None:
    """Returns the least ||z||^2 such that a_j . z >= b_j, over all sets that may bind; None where there is none."""
    best = 0.0 if np.all(needed <= 0) else None
    for size in range(1, len(vectors) + 1):
        for chosen in itertools.combinations(range(len(vectors)), size):
            rows = vectors[list(chosen)]
            z = np.linalg.pinv(rows) @ needed[list(chosen)]
            if np.all(vectors @ z >= needed - 1e-9) and (best is None or z @ z < best):
                best = float(z @ z)
    return best


def solved(vectors: Array, needed: Array, dtype: Any) -> tuple[Array, Array]:
    a, b = jnp.asarray(vectors, dtype), jnp.asarray(needed, dtype)
    grams = jnp.einsum("nid,njd->nij", a, a, precision="highest")
    mu, feasible = jax.jit(jax.vmap(nearest_feasible))(grams, b, jnp.ones(len(a), dtype))
    return np.asarray(mu, np.float64), np.asarray(feasible)


def test_it_finds_the_least_point_or_says_that_there_is_none() -> None:
    m, d = 5, 3
    draw = np.random.default_rng(m)
    vectors, needed = draw.standard_normal((20, m, d)), draw.standard_normal((20, m))
    with jax.enable_x64(True):
        mu, feasible = solved(vectors, needed, np.float64)
    single, single_feasible = solved(vectors, needed, np.float32)
    expected = [least_distance(a, b) for a, b in zip(vectors, needed, strict=True)]
    assert feasible.tolist() == single_feasible.tolist() == [e is not None for e in expected]
    for n, least in enumerate(expected):
        if least is not None:
            for multipliers, tolerance in ((mu, 1e-9), (single, 1e-3)):
                z = multipliers[n] @ vectors[n]
                assert np.all(multipliers[n] >= 0)
                assert np.all(vectors[n] @ z >= needed[n] - tolerance)
                np.testing.assert_allclose(z @ z, least, rtol=tolerance, atol=tolerance)
    assert 0 < sum(feasible) < 20


def test_fifteen_vectors_of_any_length_meet_the_conditions() -> None:
    draw = np.random.default_rng(2)
    lengths = 10.0 ** draw.uniform(-4, 4, (10, 15, 1))
    vectors, needed = draw.standard_normal((10, 15, 30)) * lengths, draw.standard_normal((10, 15)) * lengths[..., 0]
    mu, feasible = solved(vectors, needed, np.float32)
    assert np.all(feasible)
    z = np.einsum("ni,nid->nd", mu, vectors)
    slack = (np.einsum("nid,nd->ni", vectors, z) - needed) / lengths[..., 0]
    assert np.all(mu >= 0)
    assert slack.min() > -1e-4
    # What pulls is met exactly.
    assert np.abs(np.where(mu > 0, slack, 0)).max() < 1e-4


def test_a_quotient_by_nothing_is_nothing() -> None:
    np.testing.assert_array_equal(quotient(jnp.array([1.0, 1.0, -3.0]), jnp.array([0.0, -1.0, 2.0])), [0, 0, -1.5])
