"""Whether heads change the variance of the gradient: with and without, on the same batches at the same parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from auxjax.diagnostics.by_loss import inner, listed, loss_gradients, names_of, square
from auxjax.errors import AuxjaxError
from auxjax.gradients import microbatches
from auxjax.state import Batch, TrainState
from auxjax.trunk import named

ROWS = ("main", "total")
# On demand one batch is cut into so many.
BATCHES = 32

Array = np.ndarray[Any, np.dtype[Any]]


def over(state: TrainState, batches: Sequence[Batch]) -> dict[str, Any]:
    """Returns the variance of the minibatch gradient of main alone and of the total with heads, and their ratios.

    The gradients g_b of B batches at the same parameters, on the trunk alone: the arrays that main and a head reach
    (all that main reaches where there is no head). With V = sum_b |g_b - mean|^2 / (B - 1), the trace of their
    covariance, and |mean|^2 - V / B, the unbiased square of their mean, the `ratio`s total / main are of

    - `trace`: V as it is, which grows with the weights of the heads alone;
    - `noise_to_signal`: V / |mean|^2, which is also V after both mean gradients are brought to one length;
    - `equal_norm`: V / mean_b |g_b|^2, V after both gradients are brought to one root mean square length.

    "30 % lower variance" is a ratio of 0.7. Each has a 95 % interval by the jackknife over batches on its logarithm
    (Student's t with B - 1 degrees of freedom), in which what both gradients have in common cancels. `batches` are B
    of one shape, gone through twice. Main counts with its own weight, the total is the gradient that the step takes;
    BatchNorm and dropout are as in training, with other masks for each batch. None where a mean is lost in noise.
    Raises AuxjaxError for fewer than three batches.
    """
    if len(batches) < 3:
        raise AuxjaxError(f"a variance over batches needs at least three of them, not {len(batches)}")
    sums: Any = None
    for index, batch in enumerate(batches):
        sample = _sample(state, batch, index)
        sums = sample if sums is None else _add(sums, sample)
    mean = jax.tree.map(lambda x: x / len(batches), sums)
    products = [jax.device_get(_products(_sample(state, b, i), mean)) for i, b in enumerate(batches)]
    distances, dots, squares = np.moveaxis(np.asarray(products, np.float64), 0, 1)
    estimates = _estimates(distances, dots, squares, np.asarray([square(m) for m in mean], np.float64))
    layers = [name for name in names_of(state, batches[0]).layers if any(p.split("/")[0] == name for p in mean[0])]
    return {
        "batches": len(batches), "batch_size": len(next(iter(batches[0].values()))), "layers": layers,
        "losses": list(ROWS), **estimates,
    }  # fmt: skip


def records(state: TrainState, batch: Batch) -> list[dict[str, Any]]:
    """Returns the record of `over` on a batch cut into 32; raises AuxjaxError for one of fewer examples."""
    size = len(next(iter(batch.values())))
    if size < BATCHES:
        raise AuxjaxError(f"paired_variance cuts its examples into {BATCHES} batches: {size} are too few")
    cut = microbatches({name: x[: size // BATCHES * BATCHES] for name, x in batch.items()}, BATCHES)
    batches = [{name: x[b] for name, x in cut.items()} for b in range(BATCHES)]
    return [{"diagnostic": "paired_variance", **over(state, batches)}]


@jax.jit
def _sample(state: TrainState, batch: Batch, index: Any) -> tuple[dict[str, jax.Array], ...]:
    """Returns the gradients of main and of the total on the trunk, by path."""
    found = loss_gradients(state, batch, fold=index)
    reach = [named(flags) for flags in found.reach]
    trunk = [name for name, main in reach[0].items() if main and (len(reach) == 1 or any(r[name] for r in reach[1:]))]
    main, total = named(found.rows[0]), named(found.total)
    return {name: found.weights[0] * main[name] for name in trunk}, {name: total[name] for name in trunk}


@jax.jit
def _add(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


@jax.jit
def _products(sample: Sequence[Any], mean: Sequence[Any]) -> jax.Array:
    """Returns [3, 2]: |g - mean|^2, <mean, g> and |g|^2 of main and of the total."""
    apart = [jax.tree.map(jnp.subtract, g, m) for g, m in zip(sample, mean, strict=True)]
    dots = [inner(m, g) for g, m in zip(sample, mean, strict=True)]
    return jnp.array([[square(d) for d in apart], dots, [square(g) for g in sample]])


def _estimates(distances: Array, dots: Array, squares: Array, mean_squared: Array) -> dict[str, Any]:
    """Returns the estimates and the ratios with their intervals from float64[B, 2] products and |mean|^2 [2]."""
    b = len(distances)
    total = distances.sum(0)
    whole = _moments(total, b, mean_squared, squares.mean(0))
    # Without batch j, from the sums alone: of the squares about the mean, of the mean and of the squares.
    about = total - b / (b - 1) * distances
    without = (b**2 * mean_squared - 2 * b * dots + squares) / (b - 1) ** 2
    left_out = _moments(about, b - 1, without, (squares.sum(0) - squares) / (b - 1))
    return {
        "trace": listed(whole["trace"]), "norm_squared": listed(whole["norm_squared"]),
        "noise_to_signal": listed(whole["noise_to_signal"]),
        "ratio": {name: _interval(whole[name], left_out[name]) for name in ("trace", "noise_to_signal", "equal_norm")},
    }  # fmt: skip


def _moments(about: Array, count: int, mean_squared: Array, squares: Array) -> Mapping[str, Array]:
    trace = about / (count - 1)
    signal = mean_squared - trace / count
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "trace": trace, "norm_squared": signal, "noise_to_signal": np.where(signal > 0, trace / signal, np.nan),
            "equal_norm": trace / squares,
        }  # fmt: skip


def _interval(whole: Array, left_out: Array) -> dict[str, float | None]:
    """Returns total / main with the jackknife's 95 % interval."""
    from scipy.special import stdtrit

    b = len(left_out)
    with np.errstate(divide="ignore", invalid="ignore"):
        value, each = np.log(whole[1] / whole[0]), np.log(left_out[:, 1] / left_out[:, 0])
        error = np.sqrt((b - 1) / b * np.square(each - each.mean()).sum())
        ends = value + np.array([0.0, -1.0, 1.0]) * stdtrit(b - 1, 0.975) * error
        found: list[float | None] = listed(np.exp(ends))
    return dict(zip(("value", "low", "high"), found, strict=True))
