"""The torture script in small: every kill, SIGTERM and damage leaves what the untouched run had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow_study
@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_left_is_what_the_untouched_run_had(processes: int, tmp_path: Path) -> None:
    flags = ["--kills=6", "--terminations=3", "--damages=20", "--steps=60", f"--processes={processes}"]
    command = [sys.executable, "experiments/torture.py", f"--workdir={tmp_path / 'runs'}", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert "SIGKILL: 6 of 6" in done.stdout and "SIGTERM: 3 of 3" in done.stdout
    assert "damages: 20 of 20 seen" in done.stdout
