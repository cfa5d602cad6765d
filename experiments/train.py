"""Trains what a config describes: python experiments/train.py --config=configs/demo.py --workdir=runs/demo_run"""

from __future__ import annotations

from absl import flags

from auxjax import cli

CONFIG = cli.define_config()
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is saved, and resumed from if it was interrupted.")


def main() -> None:
    """Trains, then prints the test metrics and what to run next."""
    import auxjax

    result = auxjax.train(CONFIG.value, WORKDIR.value)
    print(", ".join(f"{name} {value:.4f}" for name, value in result.evaluation.items()))
    print(f"saved in {result.workdir}; next: python experiments/evaluate.py --workdir={WORKDIR.value}")


if __name__ == "__main__":
    cli.run(main, needs=("config", "workdir"))
