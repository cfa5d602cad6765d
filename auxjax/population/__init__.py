"""Many members trained as one program: which config keys are numbers, ways to execute, and a folder for each member."""

from auxjax.population.execution import WAYS, check_execution
from auxjax.population.numbers import NUMBERS
from auxjax.population.outcome import Outcome
from auxjax.population.plan import Group, plan
from auxjax.population.training import train_members

__all__ = ["NUMBERS", "WAYS", "Group", "Outcome", "check_execution", "plan", "train_members"]
