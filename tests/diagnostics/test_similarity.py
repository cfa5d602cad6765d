"""Cosine, magnitude similarity and conflict against NumPy on gradients by jax.grad."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import auxjax
from auxjax.diagnostics import similarity
from auxjax.diagnostics.by_loss import names_of
from tests.diagnostics.gradients import examples, flat, gradient, plain_state

MEASURE = jax.jit(similarity.similarity)


def test_every_pair_on_every_layer_is_that_of_numpy() -> None:
    state, batch = plain_state(2, {"layer_1": 0.3, "layer_2": 0.7}), examples(8)
    found = {name: np.asarray(value) for name, value in MEASURE(state, batch).items()}
    names = names_of(state, batch)
    grads = [gradient(state, batch, name) for name in names.losses]
    shared = {(0, 1): 1, (0, 2): 2, (1, 2): 1}  # so many layers lie below the shallower tap
    assert found["cosine"].shape == (4, 3, 3)
    for (i, j), depth in shared.items():
        pairs = [(flat(grads[i][n]), flat(grads[j][n])) for n in names.layers[:depth]]
        a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
        pairs.append((a, b))
        rows = [*range(depth), 3]
        cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
        weights = (1, 0.3, 0.7)
        lengths = [(weights[i] * np.linalg.norm(a), weights[j] * np.linalg.norm(b)) for a, b in pairs]
        for order in ((i, j), (j, i)):
            np.testing.assert_allclose(found["cosine"][rows, *order], cosines, rtol=1e-4, atol=1e-6)
            expected = [2 * a * b / (a * a + b * b) for a, b in lengths]
            np.testing.assert_allclose(found["magnitude"][rows, *order], expected, rtol=1e-5)
            np.testing.assert_allclose(found["conflict"][order], np.mean([c < 0 for c in cosines[:-1]]))
        assert np.isnan(found["cosine"][depth:3, i, j]).all()
        assert np.isnan(found["magnitude"][depth:3, i, j]).all()
    for k in range(3):
        np.testing.assert_allclose(found["cosine"][3, k, k], 1, rtol=1e-6)


def test_a_gradient_of_zero_says_nothing() -> None:
    """A head whose weight is 0 at this step has a direction and no length; one that only probes has neither."""
    state, batch = plain_state(2, {"layer_1": 0.0, "layer_2": 1.0}), examples(8)
    attached = state.program.attached
    probing = dataclasses.replace(attached.heads["aux2"], stop_gradient=True)
    attached = auxjax.attach(attached.model, {**attached.heads, "aux2": probing})
    state = state.replace(program=state.program._replace(attached=attached))
    made = similarity.record(names_of(state, batch), jax.device_get(MEASURE(state, batch)))
    assert made["layers"] == ["layer_1", "layer_2", "logits", "all"]
    assert made["cosine"][0][0][1] is not None
    assert made["magnitude"][0][0][1] is None
    assert made["cosine"][3][0][2] is made["magnitude"][3][0][2] is made["conflict"][0][2] is None
    assert made["conflict"][0][0] == 0


def test_opposed_losses_conflict_on_every_layer() -> None:
    """With main's classifier turned round, head and main, which are on one layer, pull on it in opposite directions."""
    state, batch = plain_state(1, {"layer_1": 1.0}), examples(6)
    model, heads = state.params["model"], state.params["heads"]
    for sign in (1.0, -1.0):
        # Where all logits are near 0, the gradient into the layer is linear in the classifier's kernel.
        kernel = 1e-3 * sign * heads["aux1"]["logits"]["kernel"]
        logits = {"kernel": kernel, "bias": jnp.zeros_like(model["logits"]["bias"])}
        found = MEASURE(state.replace(params={"model": {**model, "logits": logits}, "heads": heads}), batch)
        assert sign * found["cosine"][0, 0, 1] > 0.9
        assert found["conflict"][0, 1] == (sign < 0)
