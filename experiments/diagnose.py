"""Measures a run's checkpoint: python experiments/diagnose.py --workdir=runs/starved --names=gradient_norm,similarity

Prints a table for each diagnostic and appends its record to the run's diagnostics.jsonl.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from auxjax import cli

WORKDIR: flags.FlagHolder[Any] = flags.DEFINE_string("workdir", None, "The folder of a run.")
NAMES: flags.FlagHolder[Any] = flags.DEFINE_list("names", None, "Diagnostics: gradient_norm, similarity, hessian, ...")
STEP = flags.DEFINE_string("step", "last", "Which checkpoint: last, best, a step, or 0 for the first state.")
EXAMPLES = flags.DEFINE_integer("examples", 0, "How many examples; 0: as many as a training batch.", lower_bound=0)
SPLIT = flags.DEFINE_string("split", "train", "Which split.")


def main() -> None:
    """Prints the tables."""
    from auxjax.diagnose import diagnose
    from auxjax.diagnostics.table import table

    step = int(STEP.value) if STEP.value.isdigit() else STEP.value
    records = diagnose(WORKDIR.value, NAMES.value, step=step, examples=EXAMPLES.value, split=SPLIT.value)
    print("\n\n".join(table(record) for record in records))


if __name__ == "__main__":
    cli.run(main, needs=("workdir", "names"))
