"""A run that starts from a torchvision checkpoint, as a user would start it, and what bad files say."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import auxjax
from auxjax import build, check, cli
from auxjax.errors import AuxjaxError
from auxjax.pretrained import import_weights, read_tensors
from tests.torch_models import import_torchvision

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]
CONFIG = "configs/resnet18_digits.py"
REINITIALISE = ("conv1", "fc")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    module = import_torchvision().models.resnet18()
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save({"model": module.state_dict()}, path)
    return path


def config_of(path: Path, data_dir: str, reinitialise: tuple[str, ...] = REINITIALISE) -> Any:
    config = cli.load_config(ROOT / CONFIG, "smoke")
    config.data.data_dir = data_dir
    config.parallel.num_devices = 1
    config.pretrained.update(path=str(path), reinitialise=reinitialise)
    return config


def command(workdir: Path, path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "experiments/train.py", f"--config={CONFIG}:smoke", f"--workdir={workdir}"]
    line += [f"--config.pretrained.path={path}", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_a_runs_first_state_is_the_files_weights(
    checkpoint: Path, data_dir: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "auxjax"):
        setup = build.setup(check.finalize(config_of(checkpoint, data_dir)))
    expected = read_tensors(checkpoint)
    params, statistics = (jax.device_get(tree) for tree in (setup.state.params, setup.state.statistics))
    kernel = params["model"]["layer1"]["block_0"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, expected["layer1.0.conv1.weight"].transpose(2, 3, 1, 0))
    variance = statistics["batch_stats"]["model"]["layer4"]["block_1"]["bn2"]["var"]
    np.testing.assert_array_equal(variance, expected["layer4.1.bn2.running_var"])
    assert params["model"]["conv1"]["kernel"].shape == (7, 7, 1, 64) and params["model"]["fc"]["kernel"].shape[1] == 10
    assert "initial values kept: conv1, fc, head aux1, head aux2" in caplog.text and checkpoint.name in caplog.text


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _code(path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {path.parent / 'ran'}",)

    path.write_bytes(pickle.dumps({"model": Evil()}))


def _other(path: Path) -> None:
    torch.save(import_torchvision().models.googlenet(init_weights=False, num_classes=10).state_dict(), path)


@pytest.mark.parametrize(
    ("damage", "reinitialise", "message"),
    [
        (_truncate, REINITIALISE, "resnet18.pth"),
        (_code, REINITIALISE, "resnet18.pth was refused|resnet18.pth is no whole"),
        (Path.unlink, REINITIALISE, "no weights file '.*resnet18.pth'"),
        (_other, REINITIALISE, "resnet18.pth is not of this ResNet"),
        (lambda path: None, ("conv1",), "reinitialise=.'fc',. would leave it out"),
        (lambda path: None, (), "reinitialise=.'conv1', 'fc'. would leave them out"),
        (lambda path: None, ("conv1", "fcc"), "did you mean 'fc'"),
    ],
    ids=["truncated", "code", "missing", "other network", "other classes", "both ends", "typo"],
)
def test_a_bad_file_is_one_line_and_leaves_no_run(
    checkpoint: Path, data_dir: str, tmp_path: Path, damage: Callable[[Path], Any], reinitialise: tuple[str, ...],
    message: str,
) -> None:  # fmt: skip
    copy = tmp_path / "resnet18.pth"
    copy.write_bytes(checkpoint.read_bytes())
    damage(copy)
    with pytest.raises(AuxjaxError, match=message) as error:
        auxjax.train(config_of(copy, data_dir, reinitialise), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "run").glob("*")) and not (tmp_path / "ran").exists()


def test_on_the_command_line_a_bad_file_ends_in_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = command(tmp_path / "run", tmp_path / "none.pth", "--config.pretrained.reinitialise=conv1,fc")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"error: no weights file '{tmp_path}/none.pth'", done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()


@pytest.mark.slow_study
def test_fine_tuning_on_the_command_line_moves_away_from_the_files_weights(checkpoint: Path, tmp_path: Path) -> None:
    flags = ("--config.pretrained.reinitialise=conv1,fc", "--config.optimizer.learning_rate=1e-6")
    done = command(tmp_path / "run", checkpoint, *flags)
    assert done.returncode == 0, done.stderr
    config, model, variables = auxjax.load(tmp_path / "run")
    assert config.pretrained.path == str(checkpoint)
    loaded, _ = import_weights(checkpoint, model, variables, reinitialise=REINITIALISE)
    kernel, first = (v["params"]["layer1"]["block_0"]["conv1"]["kernel"] for v in (variables, loaded))
    assert 0 < np.abs(np.asarray(kernel - first)).max() < 1e-4 < np.abs(np.asarray(first)).max()
