"""Trains a grid of configs: python experiments/ablate.py --config=configs/demo.py --workdir=runs/weights --seeds=5

--axis=heads.aux1.weight=0,0.1,0.3 (several axes multiply), or --sweep=NAME for `sweep_NAME()` of the config file. Each
arm trains at three learning rates and is compared at its best on a validation split; --learning_rates=config: at one.
--emit=commands.txt writes a command for each group of runs that share a program, to run anywhere on a shared folder:
`sbatch --array=1-N --wrap='sed -n ${SLURM_ARRAY_TASK_ID}p commands.txt | bash'`; --collect then makes the table.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from absl import flags

from auxjax import cli

CONFIG = cli.define_config()
WORKDIR = flags.DEFINE_string("workdir", "", "The ablation's folder, which a rerun completes.")
AXIS = flags.DEFINE_multi_string("axis", [], "KEY=v1,v2,...: values of a config key; may be repeated.")
SWEEP = flags.DEFINE_list("sweep", [], "Sweeps of the config file, multiplied; default: its sweep() or get_hyper.")
SEEDS = flags.DEFINE_string("seeds", None, "How many seeds from 0, or the seeds themselves: 0,3,7.")
RATES = flags.DEFINE_string("learning_rates", "auto", "auto (1/3, 1 and 3 times the config's), config, or a list.")
ONLY = flags.DEFINE_integer("only", None, "Train one group of runs alone, counted from 1.")
COLLECT = flags.DEFINE_bool("collect", False, "Train nothing: make the table and the report.")
EMIT = flags.DEFINE_string("emit", None, "Train nothing: write a command for each group to this file.")
EXECUTION = flags.DEFINE_string("execution", "auto", "auto (a short trial says), scanned, threads, vmapped or devices.")
RAY = flags.DEFINE_string("ray", "", "Train on a Ray cluster: local, auto or its address.")
CPUS = flags.DEFINE_float("num_cpus", 1, "CPUs of a group on Ray.")
GPUS = flags.DEFINE_float("num_gpus", 0, "GPUs of a group on Ray.")
RESOURCES = flags.DEFINE_list("resources", [], "Other resources of a group on Ray, as in TPU=4.")
COMMAND = ["python", *sys.argv]


def main() -> int:
    """Trains, prints the table, the report's path and what failed."""
    from auxjax import ablate, population, sweep, workers

    execution = EXECUTION.value or ""
    population.check_execution(execution)
    given = {"names": SWEEP.value, "axes": AXIS.value}
    grid = cli.from_file(cli.config_file(), lambda module: sweep.combinations(CONFIG.value, module, **given))
    seeds = None if SEEDS.value is None else sweep.parse_seeds(SEEDS.value)
    rates = sweep.parse_learning_rates(RATES.value or "", CONFIG.value, grid)
    if EMIT.value:
        again = cli.without(COMMAND, ["emit"])
        lines = ablate.commands(CONFIG.value, grid, seeds, again, rates)
        Path(EMIT.value).write_text("\n".join(lines) + "\n")
        print(f"{len(lines)} commands in {EMIT.value}; afterwards: {shlex.join([*again, '--collect'])}")
        return 0
    needs = (CPUS.value or 0, GPUS.value or 0, workers.parse_resources(RESOURCES.value))
    done = ablate.ablate(
        CONFIG.value, grid, WORKDIR.value or "", seeds=seeds, learning_rates=rates, command=shlex.join(COMMAND),
        only=ONLY.value, collect=bool(COLLECT.value), on_ray=workers.Cluster(RAY.value, *needs) if RAY.value else None,
        execution=execution,
    )  # fmt: skip
    print(f"{done.table}\nreport: {done.report}" if done.report else f"{len(done.outcomes)} runs in {done.folder}")
    for line in done.failures:
        print(f"not done: {line}", file=sys.stderr)
    return done.exit_code


if __name__ == "__main__":
    cli.run(main, needs=("config", "workdir"))
