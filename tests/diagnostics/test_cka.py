"""CKA: its invariances, a NumPy oracle, the unbiased estimate against its definition, and records of networks."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.diagnostics.cka import cka, cka_over, hsic
from auxjax.diagnostics.inference import features, layer_names
from auxjax.errors import AuxjaxError
from auxjax.state import Batch, TrainState
from tests.diagnostics import tiny

LAYERS = ["layer_1", "layer_2", "logits"]


@functools.cache
def net(seed: int = 0) -> tuple[TrainState, Batch]:
    return tiny.state(seed, kind="conv"), tiny.batch(12)


def between(x: np.ndarray, y: np.ndarray, biased: bool = True) -> float:
    centred = [z - z.mean(0, keepdims=True) for z in (x, y)]
    found = hsic(np.stack([z @ z.T for z in centred]), biased)
    return float(found[0, 1] / np.sqrt(found[0, 0] * found[1, 1]))


def definition(x: np.ndarray, y: np.ndarray) -> float:
    """Kornblith's formula on features, not Gram matrices."""
    x, y = x - x.mean(0, keepdims=True), y - y.mean(0, keepdims=True)
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / norms)


def test_rotations_scales_and_shifts_change_nothing_and_stretching_does() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 6)), rng.normal(size=(20, 9))
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    for biased in (True, False):
        np.testing.assert_allclose(between(x @ rotation * 7 + 3, y, biased), between(x, y, biased))
        np.testing.assert_allclose(between(x, x @ rotation, biased), 1)
        assert not np.isclose(between(x * np.arange(1, 7)[None], y, biased), between(x, y, biased))
    np.testing.assert_allclose(between(x, y), definition(x, y))


def test_unbiased_hsic_is_the_u_statistic() -> None:
    """The mean over distinct i, j, q, r of k_ij (l_ij + l_qr - 2 l_iq), also of features that were not centred."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(6, 3)) + 2, rng.normal(size=(6, 4)) - 1
    k, l = x @ x.T, y @ y.T  # noqa: E741
    terms = [k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in itertools.permutations(range(6), 4)]
    centred = [z - z.mean(0, keepdims=True) for z in (x, y)]
    for given in (np.stack([k, l]), np.stack([z @ z.T for z in centred])):
        np.testing.assert_allclose(hsic(given, False)[0, 1], np.mean(terms))


def test_unbiased_cka_of_unrelated_wide_features_is_near_zero_where_the_biased_is_near_one() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(40, 2000)), rng.normal(size=(40, 2000))
    assert between(x, y) > 0.9 and abs(between(x, y, False)) < 0.2


def test_record_of_a_network_is_the_definition_on_its_layers() -> None:
    state, batch = net()
    record = cka(state, batch)
    assert record["layers"] == LAYERS and record["diagnostic"] == "cka"
    outputs = jax.jit(features, static_argnums=2)(state, batch, tuple(LAYERS))
    flat = {name: np.asarray(x, np.float64).reshape(12, -1) for name, x in outputs.items()}
    expected = [[definition(flat[a], flat[b]) for b in LAYERS] for a in LAYERS]
    np.testing.assert_allclose(record["cka"], expected, atol=1e-5)


def test_two_networks_and_many_batches() -> None:
    (state, batch), (other, _) = net(), net(1)
    pair = cka(state, batch, other=other, layers=["layer_1", "logits"], other_layers=["layer_2"])
    assert (pair["layers"], pair["other_layers"], np.shape(pair["cka"])) == (["layer_1", "logits"], ["layer_2"], (2, 1))
    same = cka(state, batch, other=state, layers=["layer_1", "logits"])
    np.testing.assert_allclose(same["cka"], cka(state, batch, layers=["layer_1", "logits"])["cka"], atol=1e-6)
    # Summed HSIC is the mean's up to a factor: one batch twice says what it says once.
    halves = [{k: v[i : i + 6] for k, v in batch.items()} for i in (0, 6)]
    layers = ("layer_1", "logits")
    found = np.zeros((2, 2))
    for half in halves:
        outputs = features(state, half, layers).values()
        flat = [np.asarray(x, np.float64).reshape(6, -1) for x in outputs]
        found += hsic(np.stack([x @ x.T for x in flat]), False)
    record = cka_over(state, iter(halves), layers=layers)
    np.testing.assert_allclose(record["cka"][0][1], found[0, 1] / np.sqrt(found[0, 0] * found[1, 1]), atol=1e-4)


def test_a_layer_that_says_the_same_of_every_example_has_none() -> None:
    state, batch = net()
    blind = state.replace(params=jax.tree.map(jnp.zeros_like, state.params))
    assert cka(blind, batch, layers=["layer_1", "logits"])["cka"] == [[None, None], [None, None]]


def test_what_cannot_be_is_an_error() -> None:
    state, batch = net()
    with pytest.raises(AuxjaxError, match="layer_1"):
        cka(state, batch, layers=["layer_9"])
    with pytest.raises(AuxjaxError, match="four"):
        cka_over(state, [{k: v[:3] for k, v in batch.items()}])
    with pytest.raises(AuxjaxError, match="one batch"):
        cka_over(state, [])
    assert list(layer_names(state, batch)) == LAYERS
