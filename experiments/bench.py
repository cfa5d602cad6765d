"""Prints speeds as ratios taken side by side: python experiments/bench.py --parts=ops,init,heads

On one core, steadiest: taskset -c 1 python experiments/bench.py. Ratios are medians over interleaved rounds with
quartiles; a ratio below 1 means that the first is faster.
"""

from __future__ import annotations

from absl import flags

from auxjax import cli

PARTS = flags.DEFINE_list(
    "parts",
    ["ops", "scan", "init", "step", "heads", "inference", "deployed", "weighting", "population", "torch"],
    "What to measure.",
)
ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds of each comparison.", lower_bound=1)
BATCH = flags.DEFINE_integer("batch", 64, "Images a step of GoogLeNet (32 px, small stem).", lower_bound=1)


def main() -> None:
    """Runs the parts in their order."""
    from benchmarks import googlenet, inference, population, weighting

    from auxjax.errors import unknown

    parts = googlenet.PARTS | inference.PARTS | weighting.PARTS | population.PARTS
    for part in PARTS.value:
        if part not in parts:
            raise unknown("part", part, parts)
    for part in PARTS.value:
        parts[part](ROUNDS.value, BATCH.value)


if __name__ == "__main__":
    cli.run(main)
