"""Reports on runs: tables, figures and one self-contained page, and what the data support in words."""

from auxjax.report.demo import figure, table, verdict
from auxjax.report.runs import Run, read_runs
from auxjax.report.write import write

__all__ = ["Run", "figure", "read_runs", "table", "verdict", "write"]
