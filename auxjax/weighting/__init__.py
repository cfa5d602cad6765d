"""Weightings: what turns K losses, and gradients where a method asks, into one update. Main comes first."""

from auxjax.weighting.protocol import PROMISES, HeldOut, Method, Signals, Update, Weighting
from auxjax.weighting.registry import METHODS, NAMES, Chosen, choose
from auxjax.weighting.static import SCHEDULES, dropped, own_weights, schedule

__all__ = [
    "METHODS", "NAMES", "PROMISES", "SCHEDULES", "Chosen", "HeldOut", "Method", "Signals", "Update", "Weighting",
    "choose", "dropped", "own_weights", "schedule",
]  # fmt: skip
