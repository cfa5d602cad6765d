"""What runs say about arms: means with their spread over seeds, and steps to a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Spread(NamedTuple):
    """The mean over seeds and the lowest and highest seed."""

    mean: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Returns mean, minimum and maximum over seeds."""
    return Spread(float(np.mean(values)), float(np.min(values)), float(np.max(values)))


def curve(history: Sequence[Mapping[str, Any]], split: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps and the values of one metric on one split of a run's history."""
    records = [record for record in history if record["split"] == split and metric in record]
    return np.array([r["step"] for r in records]), np.array([r[metric] for r in records])


def steps_to_target(history: Sequence[Mapping[str, Any]], split: str, metric: str, target: float) -> int | None:
    """Returns the first evaluated step at which `metric` reached `target`; None (censored) where it never did."""
    steps, values = curve(history, split, metric)
    reached = np.flatnonzero(values >= target)
    return int(steps[reached[0]]) if reached.size else None


def median_steps(steps: Sequence[int | None]) -> float | None:
    """Returns the median over seeds, those that never arrived later than all others; None where it is one of them."""
    ordered = sorted(np.inf if s is None else float(s) for s in steps)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return None if np.isinf(middle) else middle
