"""What a run's heads save as early exits: python experiments/exits.py --workdir=runs/starved --thresholds=0.1,0.5

A head answers where the entropy of its softmax, in nats, is below the threshold; see auxjax.exits and its paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from absl import flags

from auxjax import cli
from auxjax.errors import AuxjaxError

WORKDIR: flags.FlagHolder[Any] = flags.DEFINE_string("workdir", None, "The folder of a run with heads.")
STEP = flags.DEFINE_string("step", "last", "Which checkpoint: last, best or a step.")
SPLIT = flags.DEFINE_string("split", "test", "Which split.")
THRESHOLDS: flags.FlagHolder[Any] = flags.DEFINE_list("thresholds", ["0.05", "0.1", "0.5"], "Entropies in nats.")


def batches(config: Any) -> Iterator[tuple[Any, Any]]:
    """Yields normalised images and labels of the split, without what fills up the last batch."""
    from auxjax import data

    dataset = data.load(config.data)
    pipeline = data.open_pipeline(dataset, config.data, 0)
    spec = data.BatchSpec(dataset.num_classes, dataset.mean, dataset.std)
    resident = pipeline.resident(SPLIT.value)
    for inputs in pipeline.evaluation(SPLIT.value):
        batch = data.to_batch(resident, inputs, spec)
        real = batch["mask"] > 0
        yield batch["image"][real], batch["label"][real]


def main() -> None:
    """Prints a line for main alone and one for each threshold."""
    import auxjax

    try:
        thresholds = [float(value) for value in THRESHOLDS.value]
    except ValueError:
        raise AuxjaxError(f"--thresholds={','.join(THRESHOLDS.value)} must be numbers, as in 0.05,0.1,0.5") from None
    step = int(STEP.value) if STEP.value.isdigit() else STEP.value
    config, attached, variables = auxjax.load_attached(WORKDIR.value, step)
    print(auxjax.exit_table(attached, variables, batches(config), thresholds))


if __name__ == "__main__":
    cli.run(main, needs=("workdir",))
