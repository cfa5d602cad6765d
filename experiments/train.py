"""Trains what a config describes: python experiments/train.py --config=configs/demo.py --workdir=runs/demo_run"""

from __future__ import annotations

from typing import Any

from absl import flags

from auxjax import cli

CONFIG = cli.define_config()
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is saved, and resumed from if it was interrupted.")
COMPILED: flags.FlagHolder[Any] = flags.DEFINE_string(
    "compiled", None, "A step compiled for these devices by experiments/preflight.py --keep; your own, none else's."
)


def main() -> None:
    """Trains, then prints the test metrics and what to run next."""
    import auxjax
    from auxjax import processes

    result = auxjax.train(CONFIG.value, WORKDIR.value, compiled=COMPILED.value)
    if not processes.is_writer():
        return
    print(", ".join(f"{name} {value:.4f}" for name, value in result.evaluation.items()))
    print(f"saved in {result.workdir}; next: python experiments/evaluate.py --workdir={WORKDIR.value}")


if __name__ == "__main__":
    cli.run(main, needs=("config", "workdir"), several_processes=True)
