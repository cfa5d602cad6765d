"""A run that starts from a torchvision checkpoint, as a user would start it, and what bad files say."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import auxjax
from auxjax.pretrained import read_tensors
from tests.torch_models import import_torchvision

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]
CONFIG = "--config=configs/resnet18_digits.py:smoke"
REINITIALISE = "--config.pretrained.reinitialise=conv1,fc"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    module = import_torchvision().models.resnet18()
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save({"model": module.state_dict()}, path)
    return path


def train(workdir: Path, path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "experiments/train.py", CONFIG, f"--workdir={workdir}"]
    command += [f"--config.pretrained.path={path}", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_fine_tuning_starts_from_the_files_weights(checkpoint: Path, tmp_path: Path) -> None:
    done = train(tmp_path / "run", checkpoint, REINITIALISE, "--config.optimizer.learning_rate=1e-6")
    assert done.returncode == 0, done.stderr
    assert "fc" in done.stderr and "resnet18.pth" in done.stderr
    _, _, variables = auxjax.load(tmp_path / "run")
    expected = read_tensors(checkpoint)["layer1.0.conv1.weight"].transpose(2, 3, 1, 0)
    kernel = np.asarray(variables["params"]["layer1"]["block_0"]["conv1"]["kernel"])
    assert np.abs(kernel - expected).max() < 1e-4 < np.abs(expected).max()
    assert (kernel != expected).any()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _code(path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {path.parent / 'ran'}",)

    path.write_bytes(pickle.dumps({"model": Evil()}))


def _other(path: Path) -> None:
    torch.save(import_torchvision().models.alexnet(num_classes=10).state_dict(), path)


@pytest.mark.parametrize(
    ("damage", "flags", "message"),
    [
        (_truncate, (REINITIALISE,), "resnet18.pth"),
        (_code, (REINITIALISE,), "resnet18.pth"),
        (Path.unlink, (REINITIALISE,), "no weights file"),
        (_other, (REINITIALISE,), "resnet18.pth"),
        (lambda path: None, ("--config.pretrained.reinitialise=conv1",), "fc"),
        (lambda path: None, ("--config.pretrained.reinitialise=conv1,fcc",), "did you mean 'fc'"),
        (lambda path: None, ("--config.pretrained.reinitialize=conv1,fc",), "reinitialise"),
    ],
    ids=["truncated", "code", "missing", "other network", "other classes", "typo in a name", "typo in a key"],
)
@pytest.mark.slow
def test_a_bad_file_is_one_line_and_leaves_no_run(
    checkpoint: Path, tmp_path: Path, damage: Callable[[Path], Any], flags: tuple[str, ...], message: str
) -> None:
    copy = tmp_path / "resnet18.pth"
    copy.write_bytes(checkpoint.read_bytes())
    damage(copy)
    done = train(tmp_path / "run", copy, *flags)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert message in done.stderr.splitlines()[-1], done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists() and not (tmp_path / "ran").exists()
