"""Compiles a config's train step for a TPU slice that need not be here: does it fit, and how long would a step take.

python experiments/preflight.py --config=configs/googlenet_imagenet.py --topology=v5e:2x4
python experiments/preflight.py --config=configs/demo.py                          the local device, with a measured step
python experiments/preflight.py --config=configs/demo.py --sweep=v5e:2x4,v5e:4x4  weak and strong scaling, with curves
Slices need libtpu (pip install 'auxjax[tpu]', x86 Linux, no TPU) and, the first time, minutes of compilation.
"""

from __future__ import annotations

import logging
from typing import Any

from absl import flags

from auxjax import cli

CONFIG = cli.define_config()
TOPOLOGY: flags.FlagHolder[Any] = flags.DEFINE_string("topology", "local", "A slice, as v5e:2x4, or local.")
WORKDIR: flags.FlagHolder[Any] = flags.DEFINE_string("workdir", None, "Where to write preflight.json and preflight.md.")
SWEEP = flags.DEFINE_list("sweep", [], "Slices to compile for, with curves of weak and strong scaling.")
PAPER = flags.DEFINE_list("paper", [], "Slices to extend --topology to on paper, at its batch a chip.")
TRY_ALL = flags.DEFINE_bool("try_all", False, "Tries every remat policy and sharding even where the config's fit.")
PROVE = flags.DEFINE_bool("prove", True, "Compiles inference with and without heads too, and compares.")
THOROUGH = flags.DEFINE_bool("thorough", False, "Compiles as for a run, which takes ten times as long.")
KEEP: flags.FlagHolder[Any] = flags.DEFINE_string("keep", None, "Writes the compiled step to this file.")


def main() -> None:
    """Prints what was found and saves it; a step that does not fit is an error that names what does."""
    from auxjax.errors import AuxjaxError
    from auxjax.preflight import report, scaling
    from auxjax.preflight.run import preflight, verdict

    logging.getLogger("jax").setLevel(logging.ERROR)
    if SWEEP.value:
        reports, points = scaling.sweep(CONFIG.value, SWEEP.value)
    else:
        one = preflight(
            CONFIG.value, TOPOLOGY.value, prove=PROVE.value, try_all=TRY_ALL.value, thorough=THOROUGH.value,
            keep=KEEP.value,
        )  # fmt: skip
        reports, points = [one], scaling.on_paper(one, PAPER.value) if PAPER.value else []
    print(report.text(reports), *([scaling.table(points)] if points else []), sep="\n\n")
    if WORKDIR.value is not None:
        written = report.save(reports, WORKDIR.value)
        written += scaling.draw({"": points}, WORKDIR.value) if points else []
        print("\n".join(map(str, written)))
    missing = [verdict(found) for found in reports if not found.compiled.fits]
    if missing:
        raise AuxjaxError(missing[0])


if __name__ == "__main__":
    cli.run(main, needs=("config",))
