"""Reports on runs: python experiments/report.py runs/ablation --target=0.9

RUNS are folders of runs, or folders that hold them at any depth, as an ablation's. Writes report.html (one file, no
network), summary.md, runs.csv and figures/ (PNG and SVG) into --out, and prints the headline table. Nothing is trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import flags

from auxjax import cli
from auxjax.errors import AuxjaxError

OUT: flags.FlagHolder[Any] = flags.DEFINE_string("out", None, "Where the report goes; default: FIRST OF RUNS/report.")
BASELINE = flags.DEFINE_string("baseline", "", "The arm to compare with; default: the one without heads.")
TARGET = flags.DEFINE_list(
    "target", ["0.75", "0.8", "0.85"], "Values of the metric whose times are told, in the headline that of the last."
)
METRIC = flags.DEFINE_string("metric", "accuracy/main", "What is compared, as metrics.jsonl names it.")
SPLIT = flags.DEFINE_string("split", "test", "The split it is compared on.")
RUNS: list[str] = []


def main() -> None:
    """Writes the report, then prints its table and its path."""
    from auxjax import report

    if not RUNS:
        raise AuxjaxError("no runs given: python experiments/report.py runs/my_ablation")
    try:
        targets = [float(text) for text in TARGET.value]
    except ValueError:
        raise AuxjaxError(f"--target must be numbers, as in 0.75,0.85, not {','.join(TARGET.value)!r}") from None
    written = report.write(
        RUNS, OUT.value or Path(RUNS[0]) / "report",
        baseline=BASELINE.value, targets=targets, metric=METRIC.value, split=SPLIT.value,
    )  # fmt: skip
    print(f"{written.table}\n\nreport: {written.path}")


if __name__ == "__main__":
    cli.run(main, arguments=RUNS)
