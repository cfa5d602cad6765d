"""Every diagnostic by name, on demand: `(state, batch) -> records`, which `auxjax.diagnose` runs on a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from auxjax.diagnostics import cka, hessian, landscape, ntk, paired, probes
from auxjax.diagnostics.by_loss import names_of
from auxjax.diagnostics.recording import IN_TRAINING, Diagnostic
from auxjax.state import Batch, TrainState

Records = list[dict[str, Any]]


def on_demand(diagnostic: Diagnostic) -> Callable[[TrainState, Batch], Records]:
    """Returns a diagnostic in training as one of a state and a batch."""

    def run(state: TrainState, batch: Batch) -> Records:
        values = jax.jit(diagnostic.measure)(state, batch)
        return [diagnostic.record(names_of(state, batch), jax.device_get(values))]

    return run


# name -> function of a state and a batch that gives JSON records, each with its "diagnostic" and without a step.
DIAGNOSTICS: dict[str, Callable[[TrainState, Batch], Records]] = {
    **{name: on_demand(diagnostic) for name, diagnostic in IN_TRAINING.items()},
    "paired_variance": paired.records,
    "hessian": hessian.records,
    "ntk": ntk.records,
    "probes": probes.records,
    "exits": probes.exit_records,
    "cka": cka.records,
    "landscape": landscape.records,
}
