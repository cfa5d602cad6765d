"""Kills, terminates and damages training runs, and compares what is left with a run that nobody touched.

    python experiments/torture.py --workdir=runs/torture --kills=100 --terminations=50 --damages=200 --processes=1

A small network trains on the digits, saving every fifth step in the background. At random moments, mid-save and before
the first step too, it is killed (-9) or terminated (SIGTERM), and the same call goes on, run after run. After every
event the newest whole checkpoint must hold, bit for bit, what the untouched run had at that step, and the metrics file
the same records, none missing or twice; so must every finished run. With --processes=2 a run is two processes on this
machine, of which one is hit. Then random files of checkpoints are damaged: each damage must be seen, nothing damaged
loaded, and the checkpoint before it taken. Exit code 1 where anything differed.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm
from absl import flags
from ml_collections import ConfigDict
from recovery import runs
from recovery.compare import compare, digest, expected_digest, last_step
from recovery.damage import DAMAGES

from auxjax import checkpoint, cli, manifest
from auxjax.errors import AuxjaxError

WORKDIR: flags.FlagHolder[Any] = flags.DEFINE_string("workdir", None, "Where the runs are.")
KILLS = flags.DEFINE_integer("kills", 100, "How often a run is killed.")
TERMINATIONS = flags.DEFINE_integer("terminations", 50, "How often a run is sent SIGTERM.")
DAMAGED = flags.DEFINE_integer("damages", 200, "How often a checkpoint is damaged.")
PROCESSES = flags.DEFINE_integer("processes", 1, "Processes of a run.")
STEPS = flags.DEFINE_integer("steps", 200, "Steps of a run.")
SEED = flags.DEFINE_integer("seed", 0, "Of the moments and the damages.")

ENDS_WITHIN = 120  # seconds, of a run's processes after one of them was hit
STOPS_WITHIN = 30  # steps after SIGTERM, which a busy machine delivers some later


def main() -> int:
    """Tortures; prints what came of it and returns 1 where something differed."""
    workdir, rng = Path(WORKDIR.value).expanduser().absolute(), random.Random(SEED.value)
    if workdir.exists():
        raise AuxjaxError(f"{workdir} exists: give --workdir a new folder, or remove that one")
    # Read by the process that all runs are forked from; every start after the first finds its programs here.
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(workdir / "cache")}
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    config = runs.small(str(workdir / "data"), STEPS.value)
    seconds = runs.untouched(config, workdir / "untouched", PROCESSES.value)
    events = [signal.SIGKILL] * KILLS.value + [signal.SIGTERM] * TERMINATIONS.value
    rng.shuffle(events)
    wrong = hit_all(config, workdir, events, seconds, rng)
    for number in (signal.SIGKILL, signal.SIGTERM):
        count = events.count(number)
        print(f"{number.name}: {count - wrong[number]} of {count} left what the untouched run had")
    logging.getLogger("auxjax").setLevel(logging.ERROR)  # each damage is told of, twice
    seen = 0
    for index in tqdm.trange(DAMAGED.value, disable=None, unit="damage"):
        seen += damaged_is_seen(workdir / "untouched", workdir / "damaged", np.random.default_rng([SEED.value, index]))
    print(f"damages: {seen} of {DAMAGED.value} seen, and the checkpoint before taken")
    return int(any(wrong.values()) or seen < DAMAGED.value)


def hit_all(
    config: ConfigDict, workdir: Path, events: Sequence[signal.Signals], seconds: float, rng: random.Random
) -> dict[signal.Signals, int]:
    """Returns how often something differed after a signal of each kind."""
    left, wrong, number = list(events), {signal.SIGKILL: 0, signal.SIGTERM: 0}, 0
    bar = tqdm.tqdm(total=len(events), disable=None, unit="event")
    while left:
        number += 1
        folder, cause = workdir / f"run_{number}", left[-1]
        while not (folder / "DONE").exists():
            run = runs.start(config, folder, PROCESSES.value)
            if not left or runs.wait(run, rng.uniform(0, seconds)):
                runs.wait(run, 600)
                difference = compare(folder, workdir / "untouched", whole=True)
            else:
                cause = left.pop()
                bar.update(1)
                difference = hit(run, cause, rng) or compare(folder, workdir / "untouched", whole=False)
            if difference:
                wrong[cause] += 1
                print(f"{folder.name} after {cause.name}: {difference}", file=sys.stderr)
                break
        else:
            shutil.rmtree(folder)
    bar.close()
    print(f"{number} runs of {PROCESSES.value} process(es), {seconds:.0f} s each when left alone")
    return wrong


def hit(run: runs.Run, number: signal.Signals, rng: random.Random) -> str:
    """Sends one of a run's processes a signal and waits for all to end; returns what is wrong with how they did."""
    before = last_step(run.folder)
    os.kill(rng.choice(run.processes).pid, number)
    if not runs.wait(run, ENDS_WITHIN):
        for process in run.processes:
            process.kill()
        return f"not all processes ended within {ENDS_WITHIN} s"
    codes = [process.exitcode for process in run.processes]
    if number == signal.SIGKILL:
        return ""
    # While a process still imports it has nothing to save, and SIGTERM just ends it.
    if any(codes) and -signal.SIGTERM not in codes:
        return f"exit codes {codes}"
    after = last_step(run.folder)
    return f"it went on from step {before} to {after}" if after - before > STOPS_WITHIN else ""


def damaged_is_seen(source: Path, folder: Path, rng: np.random.Generator) -> bool:
    """Damages the newest of two checkpoints of a copied run; returns whether that is seen, and the other one loaded."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("checkpoints"))
    last = json.loads((source / "DONE").read_text())["step"]
    for step in (last - 1, last):
        shutil.copytree(source / "checkpoints" / str(step), folder / "checkpoints" / str(step))
    done = DAMAGES[rng.integers(len(DAMAGES))](folder / "checkpoints" / str(last), rng)
    if manifest.verify(folder / "checkpoints" / str(last)) is None or checkpoint.find_step(folder) != last - 1:
        print(f"not seen: {done}", file=sys.stderr)
        return False
    return digest(folder, checkpoint.find_step(folder)) == expected_digest(source, last - 1)


if __name__ == "__main__":
    cli.run(main, needs=("workdir",))
