"""Losses: one per head, over its own targets, mask and count; the total is a dot product of two K-vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from auxjax.errors import AuxjaxError, unknown

Loss = Callable[..., jax.Array]


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


LOSSES: dict[str, Loss] = {"softmax_cross_entropy": softmax_cross_entropy}


def head_losses(
    outputs: Mapping[str, jax.Array], batch: Mapping[str, jax.Array], heads: Mapping[str, Any]
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Returns for each of `heads`, in their order, the sum of its unmasked losses and their count, float32 scalars.

    `heads` maps a name to its `loss` (a name or a function), `target`, `mask` and `label_smoothing`; a batch without
    that mask counts every example. A mask shorter in rank than the losses covers their trailing axes whole. Raises
    AuxjaxError for an unknown loss, a missing target, and logits or a mask that do not fit the targets.
    """
    results = {}
    for name, head in heads.items():
        losses = _per_example(name, head, outputs[name], batch)
        mask = mask_of(head, batch, losses.shape)
        # What is masked may be a NaN, which a product with zero would keep.
        results[name] = jnp.where(mask > 0, losses * mask, 0.0).sum(), mask.sum()
    return results


def mask_of(head: Any, batch: Mapping[str, jax.Array], shape: tuple[int, ...]) -> jax.Array:
    """Returns the head's mask as float32 of `shape`, ones where the batch has none; raises AuxjaxError for a misfit."""
    if head.mask not in batch:
        return jnp.ones(shape, jnp.float32)
    mask = batch[head.mask].astype(jnp.float32)
    if mask.shape != shape[: mask.ndim]:
        raise AuxjaxError(f"mask {head.mask!r} is {list(mask.shape)}, and what it masks is {list(shape)}")
    return jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)


def _per_example(name: str, head: Any, logits: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
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
    return LOSSES[head.loss](logits, targets, label_smoothing=head.label_smoothing)


def _targets(head: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Returns the head's targets, 1 where they are masked and not finite.

    A NaN kept out here stays out of the gradient too; 1 and not 0, by which a user's loss may divide.
    """
    targets, mask = batch[head.target], batch.get(head.mask)
    if mask is None or mask.shape != targets.shape[: mask.ndim] or not jnp.issubdtype(targets.dtype, jnp.floating):
        return targets
    return jnp.where((mask_of(head, batch, targets.shape) > 0) | jnp.isfinite(targets), targets, 1.0)
