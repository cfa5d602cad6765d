"""What the layers of a network know of the labels: linear probes by depth, and the accuracy of every exit."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from auxjax.diagnostics.inference import apply, features, layer_names
from auxjax.errors import AuxjaxError
from auxjax.metrics import head_metrics
from auxjax.state import Batch, TrainState
from auxjax.taps import list_taps, reads

# Of the mean squared singular value of the features.
PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


def probes(
    state: TrainState, batches: Iterable[Batch], test: Iterable[Batch], *, layers: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Returns the record of a linear classifier on each layer's features: accuracy on `test`, trained on `batches`.

    Linear probes (Alain & Bengio 2016, arXiv 1610.01644, section 3), here ridge regression to one-hot labels, which has
    a closed form, on features averaged over positions. `layers` are taps, by default the outputs of the model's own
    submodules in order. Examples that main masks are left out. The penalty is chosen from `PENALTIES` on a fifth of the
    training examples, drawn by `seed`. All features of one pass over `batches` are held in memory.
    Raises AuxjaxError for a tap that the model does not have, targets that are not one class an example, no batch, and
    fewer than five examples to train on.
    """
    taps: tuple[str, ...] = ()
    splits = []
    for split in (batches, test):
        parts = []
        for batch in split:
            taps = taps or layer_names(state, batch, layers)
            keep, labels = _labels(state, batch)
            pooled = [np.asarray(x, np.float64)[keep] for x in _pooled(state, batch, taps)]
            parts.append([labels[keep], *pooled])
        if not parts:
            raise AuxjaxError("probes need at least one batch to train on and one to test on")
        splits.append([np.concatenate(column) for column in zip(*parts, strict=True)])
    (labels, *train), (test_labels, *held) = splits
    accuracies = [ridge_accuracy(x, labels, y, test_labels, seed) for x, y in zip(train, held, strict=True)]
    return {"diagnostic": "probes", "layers": list(taps), "accuracy": accuracies}


def exits(state: TrainState, batches: Iterable[Batch]) -> dict[str, Any]:
    """Returns the record of the accuracy of every head and of main, in inference mode, over all examples of `batches`.

    Heads come in the order in which their taps are computed, those of weight 0 with them, main last. An exit that is no
    classifier has accuracy 0, as in training, and one all of whose examples are masked None.
    Raises AuxjaxError for no batch.
    """
    totals: dict[str, np.ndarray] = {}
    for batch in batches:
        for name, value in jax.device_get(_hits(state, batch)).items():
            totals[name] = totals.get(name, 0.0) + np.asarray([value["correct"], value["count"]], np.float64)
    if not totals:
        raise AuxjaxError("exits need at least one batch")
    accuracy = [float(correct / count) if count else None for correct, count in totals.values()]
    order = _by_depth(state, batch)
    table = dict(zip(totals, accuracy, strict=True))
    return {"diagnostic": "exits", "heads": order, "accuracy": [table[name] for name in order]}


def records(
    state: TrainState, batch: Batch, *, test: Batch | None = None, layers: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Returns the record of probes trained on `batch`; without a `test` batch, on all but its last quarter."""
    if test is None:
        size = len(batch[state.program.inputs[0]])
        cut = size - size // 4
        batch, test = {k: v[:cut] for k, v in batch.items()}, {k: v[cut:] for k, v in batch.items()}
    return [probes(state, [batch], [test], layers=layers)]


def exit_records(state: TrainState, batch: Batch) -> list[dict[str, Any]]:
    """Returns the record of the exits on one batch."""
    return [exits(state, [batch])]


def ridge_accuracy(
    x: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, seed: int = 0
) -> float:
    """Returns the accuracy on `test` [m, D] of ridge regression from x [n, D] to one-hot labels int[n].

    The largest penalty wins of those that are best on a fifth of x. Raises AuxjaxError where n is below five.
    """
    size = len(x)
    if size < 5:
        raise AuxjaxError(f"a linear probe needs at least five examples to train on, not {size}")
    order = np.random.default_rng(seed).permutation(size)
    chosen, kept = order[: size // 5], order[size // 5 :]
    scores = [_right(w, x[chosen], labels[chosen]) for w in ridge(x[kept], labels[kept], PENALTIES)]
    best = max(range(len(scores)), key=lambda i: (scores[i], PENALTIES[i]))
    (weights,) = ridge(x, labels, PENALTIES[best : best + 1])
    return _right(weights, test, test_labels)


def ridge(x: np.ndarray, labels: np.ndarray, penalties: Sequence[float]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns (W [D, N], b [N]) that minimise |Y - X W - 1 b'|^2 + p s |W|^2 for each penalty p.

    Y is one-hot, s the mean squared singular value of the centred X: one decomposition serves all penalties, and a
    penalty means the same whatever the scale of the features.
    """
    y = np.eye(int(labels.max()) + 1)[labels]
    x_mean, y_mean = x.mean(0), y.mean(0)
    left, singular, right = np.linalg.svd(x - x_mean[None], full_matrices=False)
    target, squares = left.T @ (y - y_mean[None]), singular**2
    found = []
    for penalty in penalties:
        # Constant features have no singular value above 0, and get no weight.
        scale = squares + penalty * squares.mean()
        factor = np.divide(singular, scale, out=np.zeros_like(scale), where=scale > 0)
        weights = right.T @ (factor[:, None] * target)
        found.append((weights, y_mean - x_mean @ weights))
    return found


def _right(weights: tuple[np.ndarray, np.ndarray], x: np.ndarray, labels: np.ndarray) -> float:
    return float(((x @ weights[0] + weights[1][None]).argmax(1) == labels).mean())


def _labels(state: TrainState, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Returns which examples main does not mask, bool[B], and their classes, int[B]."""
    main = state.program.main
    targets = np.asarray(batch[main.target])
    classes = targets.argmax(-1) if np.issubdtype(targets.dtype, np.floating) and targets.ndim == 2 else targets
    if classes.ndim != 1 or not np.issubdtype(classes.dtype, np.integer):
        raise AuxjaxError(f"a linear probe needs one class an example, and main's target is {list(targets.shape)}")
    mask = np.asarray(batch.get(main.mask, np.ones(len(classes))))
    return mask > 0, classes


@functools.partial(jax.jit, static_argnums=2)
def _pooled(state: TrainState, batch: Batch, layers: tuple[str, ...]) -> list[jax.Array]:
    """Returns each layer's features, averaged over all axes between the first and the last, as float[B, D]."""
    found = features(state, batch, layers).values()
    return [x.reshape(len(x), -1, x.shape[-1]).astype(jnp.float32).mean(1) for x in found]


@jax.jit
def _hits(state: TrainState, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    heads = state.program.attached.heads
    outputs = apply(state, state.params, batch, tuple(heads))
    return head_metrics(outputs, batch, {"main": state.program.main, **heads})


def _by_depth(state: TrainState, batch: Batch) -> list[str]:
    program = state.program
    shapes = (jax.ShapeDtypeStruct(batch[name].shape, batch[name].dtype) for name in program.inputs)
    taps = list(list_taps(program.attached.model, *shapes))

    def depth(name: str) -> int:
        at = program.attached.heads[name].at
        return next((i for i, tap in enumerate(taps) if reads(at, tap)), len(taps))

    return [*sorted(program.attached.heads, key=depth), "main"]
