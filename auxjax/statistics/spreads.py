"""Plain descriptions of a few runs, without any inference: mean with lowest and highest, and the median of steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """The mean over seeds and the lowest and highest seed."""

    mean: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Returns mean, minimum and maximum over seeds."""
    return Spread(float(np.mean(values)), float(np.min(values)), float(np.max(values)))


def median_steps(steps: Sequence[int | None]) -> float | None:
    """Returns the median over seeds, those that never arrived later than all others; None where it is one of them."""
    ordered = sorted(np.inf if s is None else float(s) for s in steps)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return None if np.isinf(middle) else middle
