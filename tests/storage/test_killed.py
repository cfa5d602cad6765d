"""A run in a bucket that kill -9 ends in the middle of a request, again and again: the bits of one on a disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import auxjax
from auxjax import metrics, storage
from tests.digits_runs import timeless
from tests.equal import equal
from tests.storage.objects import Bucket

ROOT = Path(__file__).parent.parent.parent


def start(workdir: str, data_dir: str) -> subprocess.Popen[str]:
    command = [sys.executable, "experiments/train.py", "--config=configs/demo.py:smoke", f"--workdir={workdir}"]
    flags = [f"--config.data.data_dir={data_dir}", "--config.train.checkpoint_steps=1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*command, *flags], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(workdir: str, data_dir: str) -> str:
    """Trains to the end, and returns what was said."""
    process = start(workdir, data_dir)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    return said


@pytest.mark.slow_study
def test_kill_9_at_any_request_loses_nothing(bucket: Bucket, data_dir: str, tmp_path: Path) -> None:
    finish(str(tmp_path / "whole"), data_dir)
    for number in (40, 170, 90, 230, 150, 60):
        process = start("gs://bucket/run", data_dir)
        changes = 0

        def kill(method: str, path: str, query: Mapping[str, str]) -> None:
            nonlocal changes
            changes += method != "GET"
            if changes == number:  # noqa: B023
                process.send_signal(signal.SIGKILL)  # noqa: B023

        bucket.refuse = kill
        said = process.communicate(timeout=300)[1]
        print(number, process.returncode, changes, said)
        assert process.returncode in (0, -signal.SIGKILL), said
    bucket.refuse = lambda method, path, query: None
    said = finish("gs://bucket/run", data_dir)
    assert "damaged" not in said
    whole, run = tmp_path / "whole", storage.place("gs://bucket/run")
    equal(auxjax.load_attached(run)[2], auxjax.load_attached(whole)[2])
    assert timeless(metrics.read(run / "metrics.jsonl")) == timeless(metrics.read(whole / "metrics.jsonl"))
