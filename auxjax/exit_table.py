"""exit_table(): what early exits cost and save on a data set, for many thresholds from one pass."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from auxjax.attach import Attached
from auxjax.errors import AuxjaxError
from auxjax.exits import Thresholds, entropy, limits_of, split, stage_flops


@dataclasses.dataclass(frozen=True)
class ExitRow:
    """What one threshold does to a data set: accuracy, mean FLOPs an example, and the share that leaves at each exit.

    `threshold` is None for main alone, without an exit; `speed_up` is its FLOPs over this row's.
    """

    threshold: Thresholds | None
    accuracy: float
    flops: float
    speed_up: float
    shares: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class ExitTable:
    """A row for main alone and one for each threshold; `names` are the exits in order of depth, then main."""

    names: tuple[str, ...]
    rows: tuple[ExitRow, ...]

    def __str__(self) -> str:
        header = ("threshold", "accuracy", "MFLOP", "speed-up", *self.names)
        cells = [
            (
                _named(row.threshold), f"{100 * row.accuracy:.2f} %", f"{row.flops / 1e6:.3f}", f"{row.speed_up:.2f} x",
                *(f"{100 * row.shares[name]:.1f} %" if name in row.shares else "-" for name in self.names),
            )
            for row in self.rows
        ]  # fmt: skip
        widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
        return "\n".join("  ".join(map(str.rjust, line, widths)) for line in (header, *cells))


def exit_table(
    attached: Attached, variables: Any, batches: Iterable[tuple[Any, Any]], thresholds: Sequence[Thresholds]
) -> ExitTable:
    """Returns the table of a labelled data set under each of `thresholds`, from one pass over `batches`.

    A batch is `(inputs, labels)`, an array or a tuple of arrays and int[B]. FLOPs are counted (`auxjax.flops.count`)
    for every example by itself: the network and the heads up to the exit where it leaves.
    Raises AuxjaxError as `exits` does, for no batch, and for labels that are not int[B].
    """
    limits = [limits_of(attached, threshold) for threshold in thresholds]
    heads = [name for name in attached.heads if any(name in limit for limit in limits)]
    entropies, correct, example = _measure(attached, variables, batches, heads)
    size = jax.tree.leaves(example)[0].shape[0]

    @functools.cache
    def costs(names: tuple[str, ...]) -> dict[str, float]:
        """The FLOPs of an example that leaves at each of these exits, in order of depth, or stays for main."""
        counted = stage_flops(attached, names, variables, *example)
        return dict(zip(counted, np.cumsum([*counted.values()]) / size, strict=True))

    main = costs(())["main"]
    rows = [ExitRow(None, float(correct["main"].mean()), main, 1.0, {"main": 1.0})]
    for threshold, limit in zip(thresholds, limits, strict=True):
        cost = costs(tuple(limit))
        confident = [entropies[name] < limit.get(name, np.inf) for name in cost]
        leaves = np.stack(confident).argmax(0)
        accuracy = np.stack([correct[name] for name in cost])[leaves, np.arange(len(leaves))].mean()
        mean = float(np.asarray(list(cost.values()))[leaves].mean())
        shares = {name: float((leaves == i).mean()) for i, name in enumerate(cost)}
        rows.append(ExitRow(threshold, float(accuracy), mean, main / mean if mean else 1.0, shares))
    return ExitTable(tuple(costs(tuple(heads))), tuple(rows))


def _measure(
    attached: Attached, variables: Any, batches: Iterable[tuple[Any, Any]], heads: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], tuple[Any, ...]]:
    """Returns entropy and correctness of every output on every example, and the inputs of a batch as shapes."""

    @jax.jit
    def evaluate(variables: Any, inputs: Any, labels: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
        outputs = attached.apply(variables, *inputs, train=False, heads=heads, step=0)
        return {name: (entropy(logits), logits.argmax(-1) == labels) for name, logits in outputs.items()}

    results: list[Any] = []
    example: tuple[Any, ...] = ()
    for given, labels in batches:
        inputs = given if isinstance(given, tuple) else (given,)
        if np.ndim(labels) != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise AuxjaxError(f"exit_table needs labels int[B], not {labels.dtype}{list(np.shape(labels))}")
        if not example:
            split(attached, heads, variables, *inputs)  # refuses what is no classifier, before it is run
            example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs)
        results.append(jax.device_get(evaluate(variables, inputs, labels)))
    if not results:
        raise AuxjaxError("exit_table needs at least one batch of (inputs, labels)")
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *results)
    return {n: pair[0] for n, pair in joined.items()}, {n: pair[1] for n, pair in joined.items()}, example


def _named(threshold: Thresholds | None) -> str:
    if threshold is None:
        return "main alone"
    return " ".join(f"{n}={t:g}" for n, t in threshold.items()) if isinstance(threshold, Mapping) else f"{threshold:g}"
