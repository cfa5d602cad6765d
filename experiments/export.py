"""Exports a run's stripped network: python experiments/export.py --workdir=runs/demo_run --output=exports/demo

--formats=safetensors,stablehlo,onnx,torchvision; --fold folds BatchNorm in those that hold a program (stablehlo, onnx).
Every file is read back and run against the network before the folder takes its name.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from auxjax import cli

WORKDIR: flags.FlagHolder[Any] = flags.DEFINE_string("workdir", None, "The folder of a run.")
OUTPUT: flags.FlagHolder[Any] = flags.DEFINE_string("output", None, "The folder to write; new, or an earlier export.")
FORMATS = flags.DEFINE_list("formats", ["safetensors"], "Any of safetensors, stablehlo, onnx, torchvision.")
FOLD = flags.DEFINE_bool("fold", False, "Folds BatchNorm into the convolutions before it.")
STEP = flags.DEFINE_string("step", "last", "Which checkpoint: last, best or a step.")


def main() -> None:
    """Prints each file with its size."""
    from auxjax.export import export_run

    step = int(STEP.value) if STEP.value.isdigit() else STEP.value
    for path in export_run(WORKDIR.value, OUTPUT.value, FORMATS.value, fold=FOLD.value, step=step):
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    cli.run(main, needs=("workdir", "output"))
