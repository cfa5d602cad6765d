"""Losses against closed forms in NumPy; masks, counts and what does not fit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.losses import distill, head_losses, softmax_cross_entropy, squared_hinge

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 5)).astype(np.float32)
LABELS = RNG.integers(0, 5, 6).astype(np.int32)


def head(**fields: Any) -> SimpleNamespace:
    values = {"loss": "softmax_cross_entropy", "target": "label", "mask": "mask", "label_smoothing": 0.0}
    return SimpleNamespace(**(values | fields))


def numpy_loss(logits: np.ndarray, q: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return -(q * (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))).sum(-1)


def losses(batch: dict[str, Any], logits: Any = LOGITS, **fields: Any) -> tuple[float, float]:
    arrays = {name: jnp.asarray(value) for name, value in batch.items()}
    total, count = head_losses({"main": jnp.asarray(logits)}, arrays, {"main": head(**fields)})["main"]
    assert total.dtype == count.dtype == jnp.float32
    assert total.shape == count.shape == ()
    return float(total), float(count)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_loss_is_its_closed_form(smoothing: float) -> None:
    q = (1 - smoothing) * np.eye(5)[LABELS] + smoothing / 5
    expected = numpy_loss(LOGITS, q)
    integers = softmax_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS), label_smoothing=smoothing)
    soft = softmax_cross_entropy(jnp.asarray(LOGITS), jnp.eye(5)[LABELS], label_smoothing=smoothing)
    np.testing.assert_allclose(integers, expected, rtol=1e-5)
    np.testing.assert_allclose(soft, expected, rtol=1e-5)


def test_soft_targets_are_taken_as_they_are() -> None:
    q = RNG.dirichlet(np.ones(5), 6)
    np.testing.assert_allclose(losses({"label": q.astype(np.float32)})[0], numpy_loss(LOGITS, q).sum(), rtol=1e-5)


def test_low_precision_logits_are_summed_in_float32() -> None:
    low = jnp.asarray(LOGITS, jnp.bfloat16)
    expected = numpy_loss(np.asarray(low, np.float64), np.eye(5)[LABELS]).sum()
    np.testing.assert_allclose(losses({"label": LABELS}, low)[0], expected, rtol=1e-5)


def test_every_head_has_its_own_targets_mask_and_count() -> None:
    other = (LABELS + 1) % 5
    batch = {
        "label": jnp.asarray(LABELS), "other": jnp.asarray(other),
        "mask": jnp.array([1, 1, 1, 1, 0, 0]), "other_mask": jnp.array([False, True, True, False, False, False]),
    }  # fmt: skip
    heads = {"main": head(), "aux": head(target="other", mask="other_mask"), "free": head(mask="absent")}
    results = head_losses({name: jnp.asarray(LOGITS) for name in heads}, batch, heads)
    assert list(results) == ["main", "aux", "free"]
    assert [float(count) for _, count in results.values()] == [4, 2, 6]
    expected = [
        numpy_loss(LOGITS, np.eye(5)[LABELS])[:4].sum(), numpy_loss(LOGITS, np.eye(5)[other])[1:3].sum(),
        numpy_loss(LOGITS, np.eye(5)[LABELS]).sum(),
    ]  # fmt: skip
    np.testing.assert_allclose([total for total, _ in results.values()], expected, rtol=1e-5)


def test_masks_weigh_tokens_one_by_one_or_whole_sequences() -> None:
    logits = RNG.normal(size=(3, 4, 5)).astype(np.float32)
    labels = RNG.integers(0, 5, (3, 4))
    each = numpy_loss(logits, np.eye(5)[labels])
    tokens = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], np.float32)
    total, count = losses({"label": labels, "mask": tokens}, logits)
    np.testing.assert_allclose((total, count), ((each * tokens).sum(), 6), rtol=1e-5)
    total, count = losses({"label": labels, "mask": np.array([1, 0, 1], np.float32)}, logits)
    np.testing.assert_allclose((total, count), (each[[0, 2]].sum(), 8), rtol=1e-5)
    # A mask may also weigh.
    total, count = losses({"label": LABELS, "mask": np.full(6, 0.5, np.float32)})
    np.testing.assert_allclose((total, count), (numpy_loss(LOGITS, np.eye(5)[LABELS]).sum() / 2, 3), rtol=1e-5)


def test_what_is_masked_may_be_anything() -> None:
    mask = np.array([1, 1, 1, 1, 1, 0], np.float32)
    logits, soft = LOGITS.copy(), np.eye(5, dtype=np.float32)[LABELS]
    logits[5], soft[5] = np.inf, np.nan
    expected = numpy_loss(LOGITS, np.eye(5)[LABELS])[:5].sum()
    for labels in (soft, LABELS, np.where(mask > 0, LABELS, 255)):
        np.testing.assert_allclose(losses({"label": labels, "mask": mask}, logits)[0], expected, rtol=1e-5)

    def total(logits: jax.Array) -> jax.Array:
        batch = {"label": jnp.asarray(soft), "mask": jnp.asarray(mask)}
        return head_losses({"main": logits}, batch, {"main": head()})["main"][0]

    gradient = jax.grad(total)(jnp.asarray(LOGITS))
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[5], 0)


def test_a_masked_target_without_a_value_leaves_the_gradient_of_a_users_loss_alone() -> None:
    def relative(logits: jax.Array, targets: jax.Array) -> jax.Array:
        return ((logits / targets - 1) ** 2).sum(-1)

    def gradient(targets: np.ndarray) -> jax.Array:
        batch = {"value": jnp.asarray(targets), "mask": jnp.array([1.0, 1, 1, 1, 1, 0])}
        heads = {"main": head(loss=relative, target="value")}
        return jax.grad(lambda x: head_losses({"main": x}, batch, heads)["main"][0])(jnp.asarray(LOGITS))

    targets = RNG.uniform(1, 2, (6, 5)).astype(np.float32)
    expected = 2 * (LOGITS / targets - 1) / targets
    expected[5] = 0
    for missing in (1.0, np.nan, np.inf):
        targets[5] = missing
        np.testing.assert_allclose(gradient(targets), expected, rtol=1e-4, atol=1e-6)


def test_nothing_unmasked_is_zero_of_zero() -> None:
    assert losses({"label": LABELS, "mask": np.zeros(6)}) == (0.0, 0.0)


def test_a_function_serves_as_a_loss() -> None:
    def squared(logits: jax.Array, targets: jax.Array) -> jax.Array:
        return ((logits - targets) ** 2).sum(-1)

    targets = RNG.normal(size=(6, 5)).astype(np.float32)
    batch = {"label": targets, "mask": np.array([1, 0, 1, 1, 1, 1], np.float32)}
    expected = ((LOGITS - targets) ** 2).sum(-1)[[0, 2, 3, 4, 5]].sum()
    np.testing.assert_allclose(losses(batch, loss=squared), (expected, 5), rtol=1e-5)
    with pytest.raises(AuxjaxError, match="label_smoothing is for named losses"):
        losses(batch, loss=squared, label_smoothing=0.1)


@pytest.mark.parametrize(
    ("batch", "fields", "message"),
    [
        ({"label": LABELS[:5]}, {}, r"head 'main' gives logits \[6, 5\], and its targets 'label' are int32\[5\]"),
        ({"label": LABELS[:, None]}, {}, r"are int32\[6, 1\]; expected integers \[6\] or floats \[6, 5\]"),
        ({"label": np.eye(5, dtype=np.int32)[LABELS]}, {}, r"are int32\[6, 5\]; expected integers"),
        ({"label": LABELS.astype(np.float32)}, {}, r"are float32\[6\]; expected integers"),
        ({"label": LABELS, "mask": np.ones(5)}, {}, r"mask 'mask' is \[5\], and what it masks is \[6\]"),
        ({"label": LABELS, "mask": np.ones((6, 1))}, {}, r"mask 'mask' is \[6, 1\], and what it masks is \[6\]"),
        ({"label": LABELS}, {"target": "labels"}, "head 'main' has target 'labels', and the batch has only: label"),
        ({"label": LABELS}, {"loss": "softmax"}, "unknown loss of head 'main' 'softmax'; did you mean 'softmax_cross_"),
    ],
)
def test_what_does_not_fit_is_one_line(batch: dict[str, Any], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(AuxjaxError, match=message) as error:
        losses(batch, **fields)
    assert "\n" not in str(error.value)


def numpy_softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits.astype(np.float64))
    return exponentials / exponentials.sum(-1, keepdims=True)


def two_outputs(**fields: Any) -> tuple[dict[str, jax.Array], dict[str, SimpleNamespace]]:
    teacher = np.random.default_rng(1).normal(size=LOGITS.shape).astype(np.float32)
    outputs = {"main": jnp.asarray(teacher), "aux": jnp.asarray(LOGITS)}
    return outputs, {"main": head(), "aux": head(**{"loss": "distill"} | fields)}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_distillation_is_its_closed_form(smoothing: float, soft: bool) -> None:
    q = RNG.dirichlet(np.ones(5), 6).astype(np.float32) if soft else np.eye(5, dtype=np.float32)[LABELS]
    outputs, heads = two_outputs(label_smoothing=smoothing)
    batch = {"label": jnp.asarray(q if soft else LABELS)}
    total, count = head_losses(outputs, batch, heads)["aux"]
    given, student = numpy_softmax(np.asarray(outputs["main"]) / 3), numpy_softmax(LOGITS / 3)
    divergence = (given * np.log(given / student)).sum(-1)
    hard = numpy_loss(LOGITS, (1 - smoothing) * q + smoothing / 5)
    np.testing.assert_allclose((total, count), ((0.7 * hard + 0.3 * divergence).sum(), 6), rtol=1e-5)


def test_distillation_teaches_the_head_and_leaves_its_teacher_alone() -> None:
    outputs, heads = two_outputs()
    batch = {"label": jnp.asarray(LABELS)}
    gradient = jax.grad(lambda o: head_losses(o, batch, {"aux": heads["aux"]})["aux"][0])(outputs)
    np.testing.assert_array_equal(gradient["main"], 0)
    given, student = numpy_softmax(np.asarray(outputs["main"]) / 3), numpy_softmax(LOGITS / 3)
    expected = 0.7 * (numpy_softmax(LOGITS) - np.eye(5)[LABELS]) + 0.3 * (student - given) / 3
    np.testing.assert_allclose(gradient["aux"], expected, rtol=1e-4, atol=1e-6)
    same = distill(jnp.asarray(LOGITS), jnp.asarray(LABELS), teacher=jnp.asarray(LOGITS))
    np.testing.assert_allclose(same, 0.7 * numpy_loss(LOGITS, np.eye(5)[LABELS]), rtol=1e-5)


def test_distillation_needs_a_teacher_of_the_same_classes() -> None:
    batch = {"label": jnp.asarray(LABELS)}
    outputs, heads = two_outputs()
    with pytest.raises(AuxjaxError, match="main cannot have the loss 'distill', whose teacher is main itself"):
        head_losses(outputs, batch, {"main": head(loss="distill")})
    outputs["main"] = outputs["main"][:, :4]
    with pytest.raises(AuxjaxError, match=r"gives logits \[6, 5\], and its teacher, main, \[6, 4\]") as error:
        head_losses(outputs, batch, {"aux": heads["aux"]})
    assert "\n" not in str(error.value)


def test_a_squared_hinge_is_one_support_vector_machine_a_class() -> None:
    signs = 2 * np.eye(5)[LABELS] - 1
    expected = (np.maximum(0, 1 - signs * LOGITS) ** 2).sum(-1)
    np.testing.assert_allclose(losses({"label": LABELS}, loss="squared_hinge"), (expected.sum(), 6), rtol=1e-5)
    # Nothing is left to gain past the margin; the gradient is linear before it.
    right = jnp.asarray(1.5 * signs)
    np.testing.assert_array_equal(squared_hinge(right, jnp.asarray(LABELS)), 0)
    gradient = jax.grad(lambda x: squared_hinge(x, jnp.asarray(LABELS)).sum())(jnp.asarray(LOGITS))
    np.testing.assert_allclose(gradient, -2 * signs * np.maximum(0, 1 - signs * LOGITS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fields", [{"label_smoothing": 0.1}, {"target": "soft"}])
def test_a_squared_hinge_is_for_integer_labels(fields: dict[str, Any]) -> None:
    batch = {"label": LABELS, "soft": np.eye(5, dtype=np.float32)[LABELS]}
    with pytest.raises(AuxjaxError, match="squared_hinge is for integer labels"):
        losses(batch, loss="squared_hinge", **fields)
