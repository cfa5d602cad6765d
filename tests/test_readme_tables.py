"""README.md's page of models and heads is what the script prints, and leaves nothing out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from auxjax.catalogue import NETWORKS, row
from auxjax.heads import PRESETS
from auxjax.models import MODELS

ROOT = Path(__file__).parents[1]
MARKER = "<!-- models: python experiments/models.py -->\n"
PAGE = (ROOT / "README.md").read_text().partition(MARKER)[2].partition("<!-- /models -->")[0]
# Quick to trace, and together with every kind of cell: torchvision's, fields, no preset, one, and several.
SOME = ("GoogLeNet, torchvision's", "DSN", "VGG-11 with BatchNorm", "CIFAR ResNet-56", "U-Net, 8 stages", "PlainNet")


def test_every_model_and_every_preset_has_a_line() -> None:
    assert [line.split(" | ")[0].removeprefix("| ").removesuffix(" †") for line in PAGE.splitlines()[2:]] == [*NETWORKS]
    assert {name for name, *_ in NETWORKS.values()} == set(MODELS)
    assert {preset for *_, names in NETWORKS.values() for preset in names} == set(PRESETS)


@pytest.mark.parametrize("title", SOME)
def test_a_line_is_what_the_library_counts(title: str) -> None:
    assert row(title) in PAGE.splitlines()


@pytest.mark.slow_study
def test_the_page_is_what_the_script_prints() -> None:
    command = [sys.executable, str(ROOT / "experiments" / "models.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout == PAGE
