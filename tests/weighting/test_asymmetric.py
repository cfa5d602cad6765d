"""The Gramian methods for main and auxiliary losses against closed forms, whole gradients, and NumPy over steps."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest

from auxjax.weighting import asymmetric
from tests.weighting.auxiliary_gradients import Array, families, run, steps


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("soft", [False, True])
def test_gcs_is_its_formula_on_whole_gradients(soft: bool) -> None:
    gradients = steps(4, count=2)
    result = run(asymmetric.gcs(soft=soft), gradients)
    for at in np.ndindex(gradients.shape[:2]):
        main, *others = gradients[at]
        gates = [max(0.0, cosine(main, g)) if soft else float(main @ g > 0) for g in others]
        np.testing.assert_allclose(result.weights[at], [1, *gates], atol=1e-6)
        expected = main + sum(w * g for w, g in zip(gates, others, strict=True))
        np.testing.assert_allclose(result.directions[at], expected, atol=1e-5)


def test_pri_pcgrad_is_the_projection_of_whole_gradients() -> None:
    gradients = steps(5, count=2)
    with jax.enable_x64(True):
        result = run(asymmetric.pri_pcgrad(), gradients, np.float64)
    for at in np.ndindex(gradients.shape[:2]):
        main, *others = gradients[at]
        kept = [g - min(0.0, main @ g) / (main @ main) * main for g in others]
        assert all(main @ g > -1e-12 for g in kept)
        np.testing.assert_allclose(result.directions[at], main + sum(kept), atol=1e-12)


def test_pri_gradvac_follows_its_targets() -> None:
    gradients = steps(3, count=40)
    with jax.enable_x64(True):
        result = run(asymmetric.pri_gradvac(decay=0.8), gradients, np.float64)
    altered = 0
    for n in range(gradients.shape[1]):
        target = np.zeros(2)
        for t in range(len(gradients)):
            main, *others = gradients[t, n]
            direction = main.copy()
            for i, g in enumerate(others):
                phi = cosine(main, g)
                if phi < target[i]:
                    altered += 1
                    ratio = np.linalg.norm(g) / np.linalg.norm(main)
                    turn = target[i] * np.sqrt(1 - phi**2) - phi * np.sqrt(1 - target[i] ** 2)
                    g = g + ratio * turn / np.sqrt(1 - target[i] ** 2) * main
                    np.testing.assert_allclose(cosine(main, g), target[i], atol=1e-9)
                target[i] = 0.8 * target[i] + 0.2 * phi
                direction += g
            np.testing.assert_allclose(result.directions[t, n], direction, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(result.state.cosines[n, 1:], target, atol=1e-12)
    assert 20 < altered < 200


def test_pri_gradvac_stays_finite_where_the_target_nears_one() -> None:
    parallel = np.ones((30, 1, 2, 6))
    turned = parallel.copy()
    turned[-1, :, 1, :3] *= -1
    weights = run(asymmetric.pri_gradvac(decay=0.1), turned).weights
    # The cosine is 0 and the target 0.999: the multiple of main is tan(arccos(0.999))^-1.
    np.testing.assert_allclose(weights[-1, 0], [1 + 0.999 / np.sqrt(1 - 0.999**2), 1], rtol=1e-3)


def test_ol_aux_learns_every_five_steps_and_stops_at_zero() -> None:
    gradients = steps(3, count=33)
    rate = 0.05
    with jax.enable_x64(True):
        result = run(asymmetric.ol_aux(learning_rate=rate), gradients, np.float64)
    for n in range(gradients.shape[1]):
        weights, total = np.ones(3), np.zeros(3)
        for t in range(len(gradients)):
            np.testing.assert_allclose(result.weights[t, n], weights, rtol=1e-9, atol=1e-12, err_msg=f"{t}")
            total += gradients[t, n] @ gradients[t, n, 0]
            if t % 5 == 4:
                weights = np.maximum(weights + rate * total, 0)
                weights[0], total = 1, np.zeros(3)
    assert np.any(result.weights == 0)
    assert np.any(result.weights > 1)


def nearest(main: Array, others: Array, total: float) -> Array:
    """Returns the point sum w_i g_i nearest to main, w >= 0 and sum w = total, over every set of positive weights."""
    length = np.abs([main, *others]).max() or 1.0
    main, others = main / length, others / length
    candidates = []
    for size in range(1, len(others) + 1):
        for chosen in itertools.combinations(range(len(others)), size):
            kept = total * others[list(chosen)] - main
            system = np.block([[kept @ kept.T, np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]])
            v = np.linalg.lstsq(system, np.append(np.zeros(size), 1), rcond=None)[0][:-1]
            if np.all(v > -1e-9):
                candidates.append(v @ kept + main)
    return length * min(candidates, key=lambda point: float(np.linalg.norm(point - main)))


def test_arml_is_the_nearest_point_of_the_simplex() -> None:
    k = 5
    with jax.enable_x64(True):
        cases = {name: g for name, g in families(k).items() if name != "badly scaled"}
        gradients = np.concatenate(list(cases.values()))[None]
        exact = run(asymmetric.arml(scale=0.5), gradients, np.float64)
    single = run(asymmetric.arml(scale=0.5), gradients)
    for n, (main, *others) in enumerate(gradients[0]):
        scale = np.abs(gradients[0, n]).max()
        for result, tolerance in ((exact, 1e-7), (single, 1e-3)):
            weights = result.weights[0, n].astype(np.float64)
            assert np.all(weights >= 0)
            np.testing.assert_allclose(weights[1:].sum(), 0.5 * (k - 1), rtol=1e-5)
            point = weights[1:] @ np.stack(others)
            best = nearest(main, np.stack(others), 0.5 * (k - 1))
            distance, least = np.linalg.norm(point - main), np.linalg.norm(best - main)
            assert distance <= least + tolerance * scale, (n, distance, least)
