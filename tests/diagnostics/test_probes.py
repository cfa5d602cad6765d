"""Linear probes on features whose answer is known, and the accuracy of exits against an evaluation."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import auxjax
from auxjax import weighting
from auxjax.diagnostics.probes import exit_records, exits, probes, records, ridge, ridge_accuracy
from auxjax.errors import AuxjaxError
from auxjax.heads import HEADS, Head
from auxjax.state import Main, Program, TrainState, create_state
from auxjax.step import eval_step
from tests.diagnostics import tiny


class Keep(nn.Module):
    """Passes on its input's first channels."""

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x[..., : self.channels]


class Forgets(nn.Module):
    """Layers that keep 6, 2 and 0 informative channels."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        whole = Keep(6, name="whole")(x)
        part = Keep(2, name="part")(whole)
        nothing = Keep(2, name="nothing")(0 * part)
        return nn.Dense(3, name="logits")(nothing.mean((1, 2)))


def forgetful() -> TrainState:
    attached = auxjax.attach(Forgets(), {})
    program = Program(attached, Main(), (), weighting.own_weights({"name": "constant"}, {}), optax.identity(), 1)
    return create_state(program, attached.init(jax.random.key(0), jnp.zeros((1, 2, 2, 6))), jax.random.key(0))


def batch(size: int, seed: int) -> dict[str, jax.Array]:
    """Three classes, told apart by the mean over positions of the last four channels, two of them by the first two."""
    rng = np.random.default_rng(seed)
    labels = np.arange(size) % 3
    centres = np.array([[0, 0, 4, 0, 0, 0], [5, 5, 0, 4, 0, 0], [0, 0, 0, 0, 4, 0]], np.float32)
    image = centres[labels][:, None, None] + rng.normal(size=(size, 2, 2, 6)) * 0.5
    return {"image": jnp.asarray(image, jnp.float32), "label": jnp.asarray(labels)}


def test_probes_find_what_each_layer_keeps() -> None:
    record = probes(forgetful(), [batch(60, 0), batch(60, 1)], [batch(60, 2)])
    assert record["layers"] == ["whole", "part", "nothing", "logits"]
    whole, part, nothing, logits = record["accuracy"]
    assert whole == 1 and 0.6 < part < 0.85 and nothing == logits == pytest.approx(1 / 3)
    assert record["diagnostic"] == "probes"


def test_masked_examples_neither_train_nor_count() -> None:
    wrong = batch(60, 0)
    poisoned = {
        "image": jnp.concatenate([wrong["image"], jnp.full((60, 2, 2, 6), 1e3)]),
        "label": jnp.concatenate([wrong["label"], 2 - wrong["label"]]),
        "mask": jnp.repeat(jnp.array([1.0, 0.0]), 60),
    }
    state = forgetful()
    expected = probes(state, [wrong], [batch(60, 2)], layers=["whole"])
    assert probes(state, [poisoned], [batch(60, 2) | {"mask": jnp.ones(60)}], layers=["whole"]) == expected
    assert probes(state, [wrong], [poisoned], layers=["whole"])["accuracy"] == [1.0]


def test_ridge_minimises_its_loss() -> None:
    rng = np.random.default_rng(0)
    for size, width in ((30, 7), (9, 20)):
        x, labels = rng.normal(size=(size, width)), rng.integers(0, 3, size)
        y = np.eye(labels.max() + 1)[labels]
        ((weights, bias),) = ridge(x, labels, [0.1])
        penalty = 0.1 * np.mean(np.linalg.svd(x - x.mean(0)[None], compute_uv=False) ** 2)
        residual = x @ weights + bias[None] - y
        np.testing.assert_allclose(x.T @ residual + penalty * weights, 0, atol=1e-9)
        np.testing.assert_allclose(residual.sum(0), 0, atol=1e-9)


def test_the_penalty_is_chosen_so_that_noise_does_not_win() -> None:
    """A fifth of the labels is wrong, and 59 features of noise beside one that tells are enough to fit them all."""
    rng = np.random.default_rng(0)

    def draw(size: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.integers(0, 2, size)
        return np.concatenate([(6.0 * labels - 3)[:, None], rng.normal(size=(size, 59))], 1), labels

    (x, labels), (test, expected) = draw(60), draw(400)
    labels = np.where(np.arange(60) % 5 == 0, 1 - labels, labels)
    accuracy = ridge_accuracy(x, labels, test, expected)
    ((weights, bias),) = ridge(x, labels, [1e-9])
    unpenalised = (test @ weights + bias[None]).argmax(1) == expected
    assert accuracy > 0.95 > unpenalised.mean()
    assert ridge_accuracy(1e-4 * x, labels, 1e-4 * test, expected) == accuracy


def test_exits_are_those_of_an_evaluation_in_order_of_depth_and_have_heads_of_weight_zero() -> None:
    linear: Any = HEADS["linear"]
    weights = {"layer_2": 0.3, "layer_1": 0.0, "logits": 0.3}
    heads = {f"at_{at}": Head(at, linear(num_classes=tiny.CLASSES), weight=w) for at, w in weights.items()}
    state, batches = tiny.state(heads=heads), [tiny.batch(16, 0), tiny.batch(16, 1)]
    record = exits(state, batches)
    assert record["heads"] == ["at_layer_1", "at_layer_2", "at_logits", "main"] and record["diagnostic"] == "exits"
    everything = state.replace(program=state.program._replace(names=tuple(heads)))
    sums: Any = jax.tree.map(lambda a, b: a + b, *(jax.jit(eval_step)(everything, b) for b in batches))
    expected = [float(sums[name]["correct"] / sums[name]["count"]) for name in record["heads"]]
    assert record["accuracy"] == pytest.approx(expected) and len(set(expected)) > 1
    nobody = exits(state, [batches[0] | {"mask": jnp.zeros(16)}])
    assert nobody["accuracy"][-1] is None
    assert exit_records(state, batches[0]) == [exits(state, batches[:1])]


def test_records_hold_out_the_last_quarter() -> None:
    state, whole = forgetful(), batch(80, 0)
    first, last = ({k: v[part] for k, v in whole.items()} for part in (slice(60), slice(60, 80)))
    assert records(state, whole) == [probes(state, [first], [last])] == records(state, first, test=last)


def test_what_cannot_be_is_an_error() -> None:
    state, given = forgetful(), batch(60, 0)
    with pytest.raises(AuxjaxError, match="at least one batch"):
        probes(state, [], [given])
    with pytest.raises(AuxjaxError, match="five"):
        probes(state, [batch(4, 0)], [given], layers=["whole"])
    with pytest.raises(AuxjaxError, match="class an example"):
        probes(state, [given | {"label": jnp.zeros((60, 2, 2), jnp.int32)}], [given], layers=["whole"])
    with pytest.raises(AuxjaxError, match="'whole'"):
        probes(state, [given], [given], layers=["wole"])
    with pytest.raises(AuxjaxError, match="one batch"):
        exits(state, [])
