"""What a weighting is: a pair of pure functions that turns K losses into K weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Signals(NamedTuple):
    """What a weighting may look at: the step (int32), progress (float32 in [0, 1]) and K losses, constants to autodiff.

    `losses` is None for a weighting whose `needs` does not name them, where they are not known before the gradient.
    """

    step: jax.Array
    progress: jax.Array
    losses: jax.Array | None = None


class Weighting(NamedTuple):
    """`init(names) -> state` and `update(signals, state) -> (float32[K] weights, state)`, main first.

    The state is a pytree that is saved, resumed, vmapped and scanned with the training state. Main's weight is 1 by
    convention. `needs` names the signals without which `update` cannot run.
    """

    init: Callable[[tuple[str, ...]], Any]
    update: Callable[[Signals, Any], tuple[jax.Array, Any]]
    needs: frozenset[str] = frozenset()
