"""Weightings: what turns K losses, and gradients where a method asks, into one update. Main comes first."""

from auxjax.weighting.protocol import Signals, Weighting
from auxjax.weighting.static import SCHEDULES, WEIGHTINGS, dropped, make, schedule

__all__ = ["SCHEDULES", "WEIGHTINGS", "Signals", "Weighting", "dropped", "make", "schedule"]
