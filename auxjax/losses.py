"""Losses: one per head, over its own targets, mask and count; the total is a dot product of two K-vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from auxjax import ops
from auxjax.errors import AuxjaxError, unknown

Loss = Callable[..., jax.Array]

DISTILL_SHARE = 0.3
DISTILL_TEMPERATURE = 3.0


def softmax_cross_entropy(logits: jax.Array, targets: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Returns -sum_n q_n log softmax(logits)_n per example in float32, q = (1 - s) target + s / N.

    `logits` float[..., N]; `targets` int[...] or, soft, float[..., N] that sum to 1; s is `label_smoothing`
    (Szegedy et al. 2016, arXiv 1512.00567, section 7).
    """
    logits = logits.astype(jnp.float32)
    if jnp.issubdtype(targets.dtype, jnp.integer):
        if not label_smoothing:
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        targets = jax.nn.one_hot(targets, logits.shape[-1], dtype=jnp.float32)
    targets = targets.astype(jnp.float32)
    return optax.softmax_cross_entropy(
        logits, optax.smooth_labels(targets, label_smoothing) if label_smoothing else targets
    )


def distill(logits: jax.Array, targets: jax.Array, *, teacher: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Returns (1 - a) CE(targets, logits) + a KL(softmax(teacher / T) || softmax(logits / T)), a = 0.3 and T = 3.

    Self-distillation (Zhang et al. 2019, "Be Your Own Teacher", arXiv 1905.08094, section 3.2): the teacher is the
    model's own output, through which no gradient flows. `teacher` and `logits` are float[..., N], `targets` as in
    `softmax_cross_entropy`. a and T, and a KL term without Hinton's factor T^2, are of the authors' code, whose soft
    cross-entropy has the same gradient as KL. The hint on features, their third loss, is left out.
    """
    student, given = (jax.nn.log_softmax(x.astype(jnp.float32) / DISTILL_TEMPERATURE) for x in (logits, teacher))
    divergence = optax.losses.kl_divergence_with_log_targets(student, jax.lax.stop_gradient(given))
    hard = softmax_cross_entropy(logits, targets, label_smoothing=label_smoothing)
    return (1 - DISTILL_SHARE) * hard + DISTILL_SHARE * divergence


def squared_hinge(logits: jax.Array, targets: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Returns sum_n max(0, 1 - y_n logits_n)^2 per example in float32, y = 1 for the label's class and -1 for others.

    `logits` float[..., N], `targets` int[...]: N support vector machines, each one class against the rest, as in the
    code of Deeply-Supervised Nets (Caffe's hinge loss with the L2 norm); the paper's section 2.2 (Lee et al. 2014,
    arXiv 1409.5185) writes the margin as the label's score less each other one's. Raises AuxjaxError for soft targets
    and for label smoothing, of which a margin has no notion.
    """
    if label_smoothing or not jnp.issubdtype(targets.dtype, jnp.integer):
        raise AuxjaxError("squared_hinge is for integer labels: no label_smoothing, no mixup, no soft targets")
    signs = 2 * jax.nn.one_hot(targets, logits.shape[-1], dtype=jnp.float32) - 1
    return jnp.square(jnp.maximum(0.0, 1 - signs * logits.astype(jnp.float32))).sum(-1)


def upsampled_cross_entropy(logits: jax.Array, targets: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Returns cross-entropy float32[B, H, W] of logits resized bilinearly to the size of their labels.

    `logits` float[B, h, w, N], `targets` int[B, H, W]: what PSPNet (arXiv 1612.01105, section 3.3) and torchvision's
    segmentation networks have on main and auxiliary head alike.
    """
    logits = ops.resize_bilinear(logits.astype(jnp.float32), targets.shape[1:])
    return softmax_cross_entropy(logits, targets, label_smoothing=label_smoothing)


def downsampled_cross_entropy(logits: jax.Array, targets: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Returns cross-entropy float32[B, h, w] against the nearest labels at the size of the logits.

    `logits` float[B, h, w, N], `targets` int[B, H, W]: the deep supervision of nnU-Net (Isensee et al. 2021, Nature
    Methods 18) and MONAI, whose nearest is torch's "nearest-exact". Both add a Dice loss, which is left out.
    """
    targets = ops.resize_nearest(targets, logits.shape[1:3])
    return softmax_cross_entropy(logits, targets, label_smoothing=label_smoothing)


LOSSES: dict[str, Loss] = {
    "distill": distill,
    "downsampled_cross_entropy": downsampled_cross_entropy,
    "softmax_cross_entropy": softmax_cross_entropy,
    "squared_hinge": squared_hinge,
    "upsampled_cross_entropy": upsampled_cross_entropy,
}
# Losses of logits float[B, h, w, N] and integer labels [B, H, W], the mask [B] or [B, H, W].
RESIZED = ("downsampled_cross_entropy", "upsampled_cross_entropy")
# Losses that learn from main's output, which they get as `teacher`; main cannot learn from itself.
TAUGHT = ("distill",)


def head_losses(
    outputs: Mapping[str, jax.Array], batch: Mapping[str, jax.Array], heads: Mapping[str, Any]
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Returns for each of `heads`, in their order, the sum of its unmasked losses and their count, float32 scalars.

    `heads` maps a name to its `loss` (a name or a function), `target`, `mask` and `label_smoothing`; a batch without
    that mask counts every example. A mask shorter in rank than the losses covers their trailing axes whole. Losses
    in `TAUGHT` learn from `outputs["main"]`; those in `RESIZED` have maps of two sizes. Raises AuxjaxError for an
    unknown loss, a missing target, and logits, a teacher or a mask that do not fit the targets.
    """
    results = {}
    for name, head in heads.items():
        logits, fitting = resized(name, head, outputs[name], batch)
        losses = _per_example(name, head, {**outputs, name: logits}, fitting)
        mask = mask_of(head, fitting, losses.shape)
        # What is masked may be a NaN, which a product with zero would keep.
        results[name] = jnp.where(mask > 0, losses * mask, 0.0).sum(), mask.sum()
    return results


def resized(
    name: str, head: Any, logits: jax.Array, batch: Mapping[str, jax.Array]
) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    """Returns the logits, and the batch with the head's target and mask, at the one size at which its loss compares.

    Any loss but those in `RESIZED` leaves both as they are. Raises AuxjaxError for what is no map.
    """
    if head.loss not in RESIZED or head.target not in batch:
        return logits, batch
    targets = batch[head.target]
    if logits.ndim != 4 or targets.ndim != 3 or not jnp.issubdtype(targets.dtype, jnp.integer):
        raise AuxjaxError(
            f"head {name!r}: {head.loss} compares logits [B, h, w, N] with integers [B, H, W], not logits"
            f" {list(logits.shape)} with {targets.dtype}{list(targets.shape)}"
        )
    if head.loss == "upsampled_cross_entropy":
        return ops.resize_bilinear(logits.astype(jnp.float32), targets.shape[1:]), batch
    maps = {k: batch[k] for k in (head.target, head.mask) if k in batch and batch[k].shape == targets.shape}
    return logits, {**batch, **{k: ops.resize_nearest(v, logits.shape[1:3]) for k, v in maps.items()}}


def mask_of(head: Any, batch: Mapping[str, jax.Array], shape: tuple[int, ...]) -> jax.Array:
    """Returns the head's mask as float32 of `shape`, ones where the batch has none; raises AuxjaxError for a misfit."""
    if head.mask not in batch:
        return jnp.ones(shape, jnp.float32)
    mask = batch[head.mask].astype(jnp.float32)
    if mask.shape != shape[: mask.ndim]:
        raise AuxjaxError(f"mask {head.mask!r} is {list(mask.shape)}, and what it masks is {list(shape)}")
    return jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)


def _per_example(name: str, head: Any, outputs: Mapping[str, jax.Array], batch: Mapping[str, jax.Array]) -> jax.Array:
    logits = outputs[name]
    if head.target not in batch:
        there = ", ".join(sorted(batch))
        raise AuxjaxError(f"head {name!r} has target {head.target!r}, and the batch has only: {there}")
    targets = _targets(head, batch)
    if callable(head.loss):
        if head.label_smoothing:
            raise AuxjaxError(f"head {name!r}: label_smoothing is for named losses, and its loss is a function")
        return head.loss(logits, targets).astype(jnp.float32)
    if head.loss not in LOSSES:
        raise unknown(f"loss of head {name!r}", head.loss, LOSSES)
    classes = jnp.issubdtype(targets.dtype, jnp.integer)
    if targets.shape != (logits.shape[:-1] if classes else logits.shape):
        raise AuxjaxError(
            f"head {name!r} gives logits {list(logits.shape)}, and its targets {head.target!r} are {targets.dtype}"
            f"{list(targets.shape)}; expected integers {list(logits.shape[:-1])} or floats {list(logits.shape)}"
        )
    taught = {"teacher": _teacher(name, head, outputs)} if head.loss in TAUGHT else {}
    return LOSSES[head.loss](logits, targets, label_smoothing=head.label_smoothing, **taught)


def _teacher(name: str, head: Any, outputs: Mapping[str, jax.Array]) -> jax.Array:
    """Returns main's output; raises AuxjaxError where it cannot teach this head."""
    if name == "main":
        raise AuxjaxError(f"main cannot have the loss {head.loss!r}, whose teacher is main itself; give it to a head")
    student, teacher = (list(outputs[key].shape) for key in (name, "main"))
    if student != teacher:
        raise AuxjaxError(
            f"head {name!r} gives logits {student}, and its teacher, main, {teacher}; {head.loss!r} needs one shape"
        )
    return outputs["main"]


def _targets(head: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Returns the head's targets, 1 where they are masked and not finite.

    A NaN kept out here stays out of the gradient too; 1 and not 0, by which a user's loss may divide.
    """
    targets, mask = batch[head.target], batch.get(head.mask)
    if mask is None or mask.shape != targets.shape[: mask.ndim] or not jnp.issubdtype(targets.dtype, jnp.floating):
        return targets
    return jnp.where((mask_of(head, batch, targets.shape) > 0) | jnp.isfinite(targets), targets, 1.0)
