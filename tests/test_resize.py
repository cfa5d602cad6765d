"""Resizing, and the losses and metrics of maps of two sizes, against torch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax import ops
from auxjax.errors import AuxjaxError
from auxjax.losses import LOSSES, head_losses
from auxjax.metrics import head_metrics

torch = pytest.importorskip("torch")
functional = torch.nn.functional
RNG = np.random.default_rng(0)
SIZES = [((4, 6), (8, 12)), ((5, 3), (7, 11)), ((9, 8), (4, 3)), ((7, 7), (7, 2)), ((1, 1), (3, 2))]
UP, DOWN = "upsampled_cross_entropy", "downsampled_cross_entropy"


def to_torch(x: np.ndarray) -> Any:
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_resizing_is_torchs(old: tuple[int, int], new: tuple[int, int]) -> None:
    x = RNG.normal(size=(2, *old, 3)).astype(np.float32)
    expected = functional.interpolate(to_torch(x), size=new, mode="bilinear", align_corners=False)
    actual = ops.resize_bilinear(jnp.asarray(x), new)
    np.testing.assert_allclose(actual, expected.numpy().transpose(0, 2, 3, 1), atol=1e-6)
    labels = RNG.integers(0, 99, (2, *old)).astype(np.int32)
    expected = functional.interpolate(torch.from_numpy(labels[:, None].astype(np.float32)), new, mode="nearest-exact")
    picked = ops.resize_nearest(jnp.asarray(labels), new)
    assert picked.dtype == jnp.int32
    np.testing.assert_array_equal(picked, expected.numpy()[:, 0])


def test_bilinear_weights_are_of_float32() -> None:
    x = jnp.asarray(RNG.normal(size=(1, 3, 3, 2)), jnp.bfloat16)
    actual = ops.resize_bilinear(x, (7, 7))
    assert actual.dtype == jnp.bfloat16
    np.testing.assert_array_equal(actual, ops.resize_bilinear(x.astype(jnp.float32), (7, 7)).astype(jnp.bfloat16))


def head(loss: str, **fields: Any) -> SimpleNamespace:
    values = {"loss": loss, "target": "label", "mask": "mask", "label_smoothing": 0.0}
    return SimpleNamespace(**(values | fields))


def maps(ignored: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Logits [2, 3, 4, 5] and labels [2, 7, 8], some of them the 255 that no class has."""
    labels = RNG.integers(0, 5, (2, 7, 8))
    if ignored:
        labels[RNG.random(labels.shape) < 0.3] = 255
    return RNG.normal(size=(2, 3, 4, 5)).astype(np.float32), labels


def in_torch(loss: str, logits: np.ndarray, labels: np.ndarray) -> tuple[Any, Any]:
    """Returns logits and labels at the size at which they compare, both torch's."""
    scores, targets = to_torch(logits), torch.from_numpy(labels)
    if loss == UP:
        return functional.interpolate(scores, labels.shape[1:], mode="bilinear", align_corners=False), targets
    nearest = functional.interpolate(targets[:, None].float(), logits.shape[1:3], mode="nearest-exact")
    return scores, nearest[:, 0].long()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", [UP, DOWN])
def test_losses_and_right_pixels_are_torchs_and_ignored_pixels_are_masked(loss: str, smoothing: float) -> None:
    logits, labels = maps()
    scores, targets = in_torch(loss, logits, labels)
    smooth = {"label_smoothing": smoothing}
    expected = functional.cross_entropy(scores, targets, ignore_index=255, reduction="sum", **smooth).item()
    count = int((targets != 255).sum())
    assert 0 < count < targets.numel()

    batch = {"label": jnp.asarray(labels, jnp.int32), "mask": jnp.asarray(labels != 255)}
    heads = {"aux": head(loss, **smooth)}

    def run(x: jax.Array) -> Any:
        total, counted = head_losses({"aux": x}, batch, heads)["aux"]
        return total, (counted, head_metrics({"aux": x}, batch, heads)["aux"])

    (total, (counted, hits)), gradient = jax.jit(jax.value_and_grad(run, has_aux=True))(jnp.asarray(logits))
    np.testing.assert_allclose((total, counted), (expected, count), rtol=1e-5)
    assert (int(hits["correct"]), int(hits["count"])) == (int((scores.argmax(1) == targets).sum()), count)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("loss", "pixels"), [(UP, 7 * 8), (DOWN, 3 * 4)])
def test_a_mask_of_examples_covers_their_pixels_whole(loss: str, pixels: int) -> None:
    logits, labels = maps(ignored=False)
    batch = {"label": jnp.asarray(labels), "mask": jnp.array([0.0, 1.0])}
    outputs, heads = {"aux": jnp.asarray(logits)}, {"aux": head(loss)}
    expected = functional.cross_entropy(*in_torch(loss, logits[1:], labels[1:]), reduction="sum").item()
    np.testing.assert_allclose(head_losses(outputs, batch, heads)["aux"], (expected, pixels), rtol=1e-5)
    assert int(head_metrics(outputs, batch, heads)["aux"]["count"]) == pixels
    assert int(head_metrics(outputs, {"label": batch["label"]}, heads)["aux"]["count"]) == 2 * pixels


@pytest.mark.parametrize("loss", [UP, DOWN])
def test_a_loss_by_itself_gives_the_pixels_and_takes_low_precision(loss: str) -> None:
    logits, labels = maps(ignored=False)
    low = jnp.asarray(logits, jnp.bfloat16)
    actual = LOSSES[loss](low, jnp.asarray(labels))
    scores, targets = in_torch(loss, np.asarray(low, np.float32), labels)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, functional.cross_entropy(scores, targets, reduction="none"), rtol=1e-5)


def test_heads_of_other_losses_see_the_batch_as_it_is() -> None:
    logits, labels = maps(ignored=False)
    full = jnp.zeros((2, 7, 8, 5))
    heads = {"main": head("softmax_cross_entropy"), "aux": head(DOWN)}
    batch = {"label": jnp.asarray(labels), "mask": jnp.ones((2, 7, 8))}
    counts = {k: int(v[1]) for k, v in head_losses({"main": full, "aux": jnp.asarray(logits)}, batch, heads).items()}
    assert counts == {"main": 2 * 56, "aux": 2 * 12}


@pytest.mark.parametrize("loss", [UP, DOWN])
def test_what_is_no_map_is_one_line(loss: str) -> None:
    logits, labels = maps(ignored=False)
    given = {"label": jnp.asarray(labels), "short": jnp.zeros(2, int), "soft": jnp.zeros((2, 7, 8))}
    for target, values, message in (
        ("short", logits, r"not logits \[2, 3, 4, 5\] with int32\[2\]"), ("soft", logits, r"with float32\[2, 7, 8\]"),
        ("label", logits[:, 0, 0], r"not logits \[2, 5\] with"),
    ):  # fmt: skip
        with pytest.raises(AuxjaxError, match=rf"head 'aux': {loss} compares logits \[B, h, w, N\].*{message}"):
            head_losses({"aux": jnp.asarray(values)}, given, {"aux": head(loss, target=target)})
    batch = {"label": given["label"], "mask": jnp.ones((2, 7, 7))}
    with pytest.raises(AuxjaxError, match=r"mask 'mask' is \[2, 7, 7\], and what it masks is"):
        head_losses({"aux": jnp.asarray(logits)}, batch, {"aux": head(loss)})
    with pytest.raises(AuxjaxError, match="has target 'label', and the batch has only: mask"):
        head_losses({"aux": jnp.asarray(logits)}, {"mask": jnp.ones(2)}, {"aux": head(loss)})
