"""Prints what an issue needs to say about this machine: python experiments/doctor.py [--workdir=runs/demo]

Exit code 1 where something is broken; each is one line, with what mends it.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path


def main() -> int:
    """Prints the report and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", default="runs", help="where runs would be saved (runs)")
    workdir: str = parser.parse_args().workdir
    # By its path: importing the package would fail before there is a report where JAX or Flax is broken.
    path = Path(__file__).resolve().parents[1] / "auxjax" / "doctor.py"
    spec = importlib.util.spec_from_file_location("auxjax_doctor", path)
    assert spec is not None and spec.loader is not None
    doctor = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = doctor
    spec.loader.exec_module(doctor)
    checks = doctor.report(workdir)
    print(doctor.to_text(checks))
    return int(any(check.problem for check in checks))


if __name__ == "__main__":
    sys.exit(main())
