"""The report's folder, and the command that writes it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from auxjax import report
from auxjax.errors import AuxjaxError
from tests.report.made_runs import make_ablation, make_run

COMMAND = Path(__file__).parents[2] / "experiments" / "report.py"


@pytest.mark.slow
def test_a_reports_folder(tmp_path: Path) -> None:
    folder = make_ablation(tmp_path / "ablation", weights=(0.1, 0.3), seeds=2, points=5)
    make_run(folder / "runs" / "$a_{x^", {}, 7, 0.8, points=5)
    written = report.write([folder], tmp_path / "out", targets=[0.7])
    assert written.path == tmp_path / "out" / "report.html"
    made = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    names = ("exits", "heat_map", "learning_curves", "speed_map", "weights")
    expected = [f"figures/{name}.{kind}" for name in names for kind in ("png", "svg")]
    assert made == sorted([*expected, "report.html", "runs.csv", "summary.md"])
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert written.table in summary
    assert re.findall(r"^## (.*)", summary, re.MULTILINE) == [
        "What the data support", "What they do not support", "How fast and how steadily",
        "Main's loss along the training", "Runs", "How it is computed", "Figures",
    ]  # fmt: skip
    assert all((tmp_path / "out" / path).exists() for path in re.findall(r"\]\((.*?)\)", summary))
    svg = (tmp_path / "out" / "figures" / "learning_curves.svg").read_text()
    assert "at layer_3, weight 0.3" in svg


@pytest.mark.slow
def test_the_command_prints_the_table_and_where_the_report_is(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", {}, 0, 0.8, points=3)
    command = [sys.executable, str(COMMAND), str(tmp_path / "runs"), "--target=0.5"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("| arm ") and "steps to 50 %" in result.stdout
    assert result.stdout.endswith(f"report: {tmp_path / 'runs' / 'report' / 'report.html'}\n")


def test_a_folder_that_cannot_be_written_is_an_error_in_one_line(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", {}, 0, 0.8, points=3)
    (tmp_path / "file").touch()
    with pytest.raises(AuxjaxError, match=r"file/out' cannot be written: Not a directory; give --out another$"):
        report.write([tmp_path / "runs"], tmp_path / "file" / "out")


@pytest.mark.slow
def test_an_error_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, str(COMMAND), "nowhere", "--out=elsewhere"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    error = "error: no folder 'nowhere'; give folders of runs, or folders that hold them\n"
    assert (result.returncode, result.stderr) == (2, error)
    assert not list(tmp_path.iterdir())
