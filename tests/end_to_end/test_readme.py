"""Every command and every example in README.md runs as it stands there."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from auxjax.weighting.table import table as weighting_table
from tests.torch_models import import_torchvision

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines() if line.startswith("python ")]
EXAMPLES = [block for kind, block in BLOCKS if kind == "python"]
TABLE = re.findall(r"`(python experiments/[^`]+|make \w+)`", README)


@pytest.fixture(scope="module")
def folder(data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configs/ and experiments/ of the clone and new runs/, in which the commands have run."""
    here = tmp_path_factory.mktemp("clone")
    for name in ("configs", "experiments", "auxjax"):
        (here / name).symlink_to(ROOT / name)
    environment = {**os.environ, "TFDS_DATA_DIR": data_dir, "PYTHONPATH": str(here)}
    # Runs of a thousand steps: what quick compilation saves, slow code loses.
    environment["XLA_FLAGS"] = ""
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for command in COMMANDS:
        if "fashion_mnist" in command and not Path("/usr/share/datasets/fashion-mnist").exists():
            continue
        if "--topology" in command and importlib.util.find_spec("libtpu") is None:
            continue
        done = subprocess.run(
            [sys.executable, *shlex.split(command, comments=True)[1:]],
            cwd=here,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        said = {
            "prepare": "fashion_mnist", "export": "model.stablehlo", "exits": "threshold", "ablate": "report.html",
            "report": "report.html", "diagnose": "layer_1", "doctor": "jax", "tpu_vm": "chips", "preflight": "fits",
        }  # fmt: skip
        script = Path(shlex.split(command)[1]).stem
        assert said.get(script, "accuracy/main") in done.stdout, done.stdout
    return here


def test_the_readme_has_commands_and_examples() -> None:
    assert len(COMMANDS) == 14
    assert len(EXAMPLES) == 3
    assert "make demo" in README
    assert "make test" in README


def test_the_commands_leave_what_the_text_says(folder: Path) -> None:
    assert {"config.json", "metrics.jsonl", "checkpoints", "DONE"} <= {
        p.name for p in (folder / "runs" / "starved").iterdir()
    }


def test_the_examples_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for example in EXAMPLES:
        names: dict[str, Any] = {"images": jnp.zeros((2, 8, 8, 1))}
        if "resnet18.pth" in example:
            torch = pytest.importorskip("torch")
            torch.save(import_torchvision().models.resnet18().state_dict(), "resnet18.pth")
        exec(compile(example, "README.md", "exec"), names)
        assert names["logits"].shape[-1] == 10 if "logits" in names else "fc" in str(names["report"])


def test_the_page_of_methods_is_what_the_script_prints() -> None:
    page = README.partition("<!-- methods: python experiments/methods.py -->\n")[2].partition("<!-- /methods -->")[0]
    assert page == weighting_table() + "\n"


def test_every_command_of_the_results_table_names_files_that_exist() -> None:
    assert TABLE
    for command in TABLE:
        for path in re.findall(r"(?:experiments|configs)/\w+\.py", command):
            assert (ROOT / path).is_file(), command


@pytest.mark.slow_study
def test_the_demo_says_what_it_measured(data_dir: str, tmp_path: Path) -> None:
    environment = {**os.environ, "TFDS_DATA_DIR": data_dir, "XLA_FLAGS": ""}
    command = [sys.executable, "experiments/demo.py", f"--workdir={tmp_path}", "--seeds=1"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    rows = {line.split("|")[1].strip(): line for line in done.stdout.splitlines() if line.startswith("| ")}
    accuracy = {name: float(line.split("|")[2].split()[0]) for name, line in rows.items() if name != "arm"}
    assert accuracy["starved, plain"] < 20 < 90 < accuracy["starved, heads"]
    assert min(accuracy["conditioned, plain"], accuracy["conditioned, heads"]) > 90
    assert (tmp_path / "demo.png").stat().st_size > 20_000
    assert done.stdout.count("evaluated from disk") == 4
