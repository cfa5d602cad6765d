"""The doctor: what is broken is one line with its cure, nothing is ever a traceback, and no secret is shown."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from auxjax import doctor
from auxjax.doctor import Check

ROOT = Path(__file__).parents[1]


def test_the_report_of_a_sound_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a real training step; a secret variable is not in it."""
    monkeypatch.setattr(sys, "argv", ["doctor.py", f"--workdir={tmp_path}/run"])
    monkeypatch.setenv("AUXJAX_SECRET", "hidden")
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "experiments/doctor.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert ended.value.code == 0, printed
    lines = dict(line[2:].split(": ", 1) for line in printed.splitlines() if line.startswith("- "))
    names = ["auxjax", "python", "system", "processors", "memory", "workdir", "packages", "extras", "devices"]
    assert [*lines] == [*names, "data sets", "compile cache", "environment", "train step"]
    assert f"jax {importlib.metadata.version('jax')}" in lines["packages"] and lines["devices"].startswith("8 x cpu")
    assert lines["workdir"].startswith(f"{tmp_path}/run, writable, not made yet")
    assert "JAX_NUMPY_RANK_PROMOTION=raise" in lines["environment"] and "hidden" not in printed
    assert " ms after " in lines["train step"] and printed.endswith("Nothing is broken.\n")
    assert not (tmp_path / "run").exists(), "looking leaves nothing behind"


def test_without_any_package_there_is_still_a_report() -> None:
    """Python's -I -S sees neither the package nor what it needs."""
    command = [sys.executable, "-I", "-S", "experiments/doctor.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr == ""
    found, _, broken = done.stdout.partition("**Broken**")
    assert "- memory: " in found and "- system: " in found
    problems = [line for line in broken.splitlines() if line]
    assert [line.split(":")[0] for line in problems] == [
        "- packages", "- extras", "- devices", "- data sets", "- train step",
    ]  # fmt: skip
    assert all(line.endswith("pip install -e . in the checkout") for line in problems)


def test_an_exception_is_a_line() -> None:
    def fail() -> list[Check]:
        raise RuntimeError("no\nTPU " + "x" * 1000)

    (check,) = doctor.guarded("devices", fail)
    assert check.name == "devices" and check.problem.startswith("RuntimeError: no TPU xx")
    assert "\n" not in check.problem and len(check.problem) < 400
    assert "- devices: RuntimeError" in doctor.to_text([check, Check("memory", "much")]).partition("**Broken**")[2]


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in doctor.folder("workdir", str(tmp_path / "file" / "run")).problem
    assert "cannot be written" in doctor.folder("workdir", "/proc/run").problem
    assert doctor.folder("workdir", str(tmp_path / "a" / "b")).problem == ""


def test_a_bucket_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert doctor.folder("workdir", "gs://bucket/run").problem.startswith("package 'gcsfs' is missing: pip install")
    assert "no kind of folder" in doctor.folder("workdir", "ftp://host/run").problem


def test_packages_below_their_floor_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["jax>=0.10.2", "flax >= 0.12.8", "optax>=0.2.8"]
    declared += ['jax[tpu]; extra == "tpu"', "gcsfs>=2026.4; extra == 'tpu'"]
    versions = {"jax": "0.9.30", "jaxlib": "0.9.30", "flax": "0.12.10"}
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: declared)
    monkeypatch.setattr(doctor, "_version", versions.get)
    (check,) = doctor.packages()
    assert check.problem == (
        "jax 0.9.30 is older than 0.10.2: pip install -U 'jax>=0.10.2'; "
        "optax is missing: pip install -U 'optax>=0.2.8'"
    )
    assert doctor.extras() == [Check("extras", "tpu (pip install 'auxjax[tpu]')")]
    versions.update({"libtpu": "0.0.42", "gcsfs": "2026.4.0"})
    assert doctor.extras() == [Check("extras", "tpu is there")]


def test_an_accelerator_that_jax_does_not_see_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.unseen(tmp_path) == ""
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "0").touch()
    versions: dict[str, str] = {}
    monkeypatch.setattr(doctor, "_version", versions.get)
    assert doctor.unseen(tmp_path) == "", "any machine may have a vfio device"
    versions["libtpu"] = "0.0.42"
    assert "auxjax[tpu]" in doctor.unseen(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert "auxjax[cuda13]" in doctor.unseen(tmp_path)
