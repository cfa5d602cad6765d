"""Before a launch: the train step compiled for a TPU slice that is not here, its memory, collectives and time."""

from auxjax.preflight.run import Report, preflight

__all__ = ["Report", "preflight"]
