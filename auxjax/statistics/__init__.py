"""What runs say about arms: estimates with intervals, comparisons paired by seed, time to a target, and verdicts."""

from auxjax.statistics.curves import Band, align, area, curve, mean_curve, steps_to_target
from auxjax.statistics.estimates import bootstrap, interquartile_mean, mean
from auxjax.statistics.intervals import Estimate
from auxjax.statistics.multiplicity import compare, holm
from auxjax.statistics.pairs import Paired, paired
from auxjax.statistics.reductions import LossRow, loss_table
from auxjax.statistics.selection import Selection, select
from auxjax.statistics.speed import SpeedUp, speed_up
from auxjax.statistics.spreads import Spread, median_steps, spread
from auxjax.statistics.survival import (
    MedianTime,
    Survival,
    TimeToTarget,
    kaplan_meier,
    median_time,
    restricted_mean,
    time_to_target,
)
from auxjax.statistics.verdicts import Verdict, verdict, verdicts
from auxjax.statistics.wins import probability_of_improvement

__all__ = [
    "Band", "Estimate", "LossRow", "MedianTime", "Paired", "Selection", "SpeedUp", "Spread", "Survival",
    "TimeToTarget", "Verdict", "align", "area", "bootstrap", "compare", "curve", "holm", "interquartile_mean",
    "kaplan_meier", "loss_table", "mean", "mean_curve", "median_steps", "median_time", "paired",
    "probability_of_improvement", "restricted_mean", "select", "speed_up", "spread", "steps_to_target",
    "time_to_target", "verdict", "verdicts",
]  # fmt: skip
