"""Evaluates a run's stripped network from disk: python experiments/evaluate.py --workdir=runs/demo_run --step=best"""

from __future__ import annotations

from typing import Any

from absl import flags

from auxjax import cli

WORKDIR: flags.FlagHolder[Any] = flags.DEFINE_string("workdir", None, "The folder of a run.")
STEP = flags.DEFINE_string("step", "last", "Which checkpoint: last, best or a step.")
SPLIT = flags.DEFINE_string("split", "test", "Which split.")


def main() -> None:
    """Prints main's loss and accuracy over the whole split."""
    import auxjax

    step = int(STEP.value) if STEP.value.isdigit() else STEP.value
    scores = auxjax.evaluate(WORKDIR.value, SPLIT.value, step)
    print(", ".join(f"{name} {value:.4f}" for name, value in scores.items()))


if __name__ == "__main__":
    cli.run(main, needs=("workdir",))
