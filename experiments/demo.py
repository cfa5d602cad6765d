"""Shows what auxiliary heads do and what they don't: python experiments/demo.py --workdir=runs/demo"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from absl import flags

from auxjax import cli

WORKDIR: flags.FlagHolder[Any] = flags.DEFINE_string(
    "workdir", None, "Where runs, table and figure go; an interrupted demo goes on there."
)
SEEDS = flags.DEFINE_integer("seeds", 5, "Runs of each arm.", lower_bound=1)
TARGET = 0.9
ARMS = {
    "starved: 8 sigmoid layers": {"starved, plain": "plain", "starved, heads": ""},
    "well-conditioned: 6 ReLU layers, He": {
        "conditioned, plain": "conditioned_plain",
        "conditioned, heads": "conditioned",
    },
}


def main() -> None:
    """Trains four arms on the embedded digits, then prints the table and says what was written where."""
    import tqdm.auto

    from auxjax import report, storage
    from auxjax.compare import run_arm

    start, workdir = time.perf_counter(), storage.local_folder(WORKDIR.value)
    config_file = Path(__file__).parent.parent / "configs" / "demo.py"
    with tqdm.auto.tqdm(total=4 * SEEDS.value, unit="run", disable=None) as bar:
        groups = {
            group: [
                run_arm(name, cli.load_config(config_file, argument), SEEDS.value, workdir, bar)
                for name, argument in arms.items()
            ]
            for group, arms in ARMS.items()
        }
    text = report.table(groups, TARGET)
    (workdir / "table.md").write_text(text + "\n")
    report.figure(groups, workdir / "demo.png")
    print("\nThe same training with and without a linear head on each hidden layer; ", end="")
    print(f"mean [lowest, highest] of {SEEDS.value} seeds.")
    print("The heads are gone from the stripped network: it has the parameters and the FLOPs of the plain one.")
    print(f"\n{text}\n")
    for group, arms in groups.items():
        print(f"{group}: {report.verdict(arms)}")
        for arm in arms:
            before, after = arm.results[0].evaluation["accuracy/main"], arm.from_disk["accuracy/main"]
            shipped = f"{after:.2%} (with heads attached: {before:.2%})"
            print(f"  {arm.name}: seed 0 stripped, saved and evaluated from disk: {shipped}")
    written = f"Figure: {workdir / 'demo.png'}; table: {workdir / 'table.md'}; runs: {workdir}"
    print(f"\n{time.perf_counter() - start:.0f} s. {written}")
    print(f"Next: python experiments/evaluate.py --workdir={workdir / 'starved_heads' / 'seed_0'}")


if __name__ == "__main__":
    cli.run(main, needs=("workdir",))
