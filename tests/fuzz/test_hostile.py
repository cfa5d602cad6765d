"""Whatever is in a file, it is read or refused in one line: no other exception, no hang, nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import auxjax
from auxjax import described, manifest, metrics, recovery
from auxjax.errors import AuxjaxError
from auxjax.export import export_run, load_folder
from auxjax.population import outcome
from auxjax.pretrained import read_tensors
from experiments.recovery.damage import DAMAGES, files
from tests.digits_runs import config
from tests.fuzz import mutations
from tests.fuzz.mutations import fuzz, refused_or_read

# How many times as many examples: a few hundred in all in `make test`, thousands in `make study`.
TIMES = pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.slow_study)])


@pytest.fixture(scope="module")
def trained(data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run of a small network with a head."""
    made = config(data_dir, **{"train.total_steps": 1})
    folder = tmp_path_factory.mktemp("trained")
    auxjax.train(made, folder, progress=False)
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, beside an empty working directory in which nothing may appear."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Path(shutil.copytree(trained, tmp_path / "run"))


@TIMES
@pytest.mark.parametrize("name", ["config.json", "dataset.json"])
def test_a_run_whose_description_is_spoilt(name: str, times: int, copy: Path) -> None:
    path = copy / name

    def check(content: bytes) -> None:
        path.write_bytes(content)
        refused_or_read(lambda: auxjax.load(copy), copy.parent)

    fuzz(mutations.spoilt(path), check, 50 * times)


@TIMES
def test_a_run_whose_config_is_spoilt_with_its_heads(times: int, copy: Path) -> None:
    path = copy / "config.json"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        refused_or_read(lambda: auxjax.load_attached(copy), copy.parent)
        refused_or_read(lambda: described.read(copy, "main", "data", "dtype"), copy.parent)

    fuzz(mutations.spoilt_json(path.read_text()), check, 40 * times)


@TIMES
def test_a_checkpoint_that_is_spoilt_under_a_manifest_that_holds(times: int, copy: Path, trained: Path) -> None:
    step = copy / "checkpoints" / "1"
    names = [path.relative_to(step) for path in files(step) if path.name != manifest.NAME]

    def check(drawn: Any) -> None:
        place, seed = drawn
        rng = np.random.default_rng(seed)
        shutil.rmtree(step)
        shutil.copytree(trained / "checkpoints" / "1", step)
        (step / manifest.NAME).unlink()
        DAMAGES[place % len(DAMAGES)](step, rng)
        manifest.write(step, 1, sealed=True)
        refused_or_read(lambda: auxjax.load(copy), copy.parent)

    assert names
    fuzz(mutations.st.tuples(mutations.st.integers(0, 5), mutations.st.integers(0, 2**32)), check, 25 * times)


@TIMES
@pytest.mark.parametrize(
    "name", ["inference/_METADATA", "inference/_sharding", "inference/array_metadatas/process_0", "metrics/metrics"]
)
def test_a_checkpoint_whose_metadata_lies(name: str, times: int, copy: Path) -> None:
    path = copy / "checkpoints" / "1" / name

    def check(content: bytes) -> None:
        path.write_bytes(content)
        manifest.write(copy / "checkpoints" / "1", 1, sealed=True)
        refused_or_read(lambda: auxjax.load(copy, "best"), copy.parent)

    fuzz(mutations.spoilt(path), check, 30 * times)


@TIMES
def test_a_manifest_that_is_spoilt(times: int, copy: Path) -> None:
    step = copy / "checkpoints" / "1"
    path = step / manifest.NAME
    whole = path.read_bytes()

    def check(content: bytes) -> None:
        path.write_bytes(content)
        reason = manifest.verify(step)
        assert (reason is None) == (content == whole), reason
        if reason is not None:
            assert "\n" not in reason
            with pytest.raises(AuxjaxError, match="no whole checkpoint"):
                recovery.find_whole(copy)

    fuzz(mutations.spoilt(path), check, 100 * times)


@TIMES
def test_records_that_are_spoilt(times: int, copy: Path) -> None:
    path = copy / "metrics.jsonl"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        refused_or_read(lambda: metrics.read(path), copy.parent)

    fuzz(mutations.spoilt_bytes(path.read_bytes()), check, 100 * times)


@TIMES
@pytest.mark.parametrize("name", ["DONE", "FAILED"])
def test_outcomes_that_are_spoilt(name: str, times: int, copy: Path) -> None:
    (copy / "DONE").rename(copy / name)
    path = copy / name
    path.write_text(json.dumps({"error": "it diverged", "step": 1, "status": "diverged"}))

    def check(content: bytes) -> None:
        path.write_bytes(content)
        refused_or_read(lambda: outcome.read(copy), copy.parent)

    fuzz(mutations.spoilt(path), check, 50 * times)


@TIMES
def test_safetensors_that_are_spoilt(times: int, tmp_path: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "weights.safetensors"
    numpy.save_file({"conv.weight": np.ones((2, 3), np.float32), "bias": np.zeros(2, np.float16)}, path)

    def check(content: bytes) -> None:
        path.write_bytes(content)
        refused_or_read(lambda: read_tensors(path), tmp_path)

    fuzz(mutations.spoilt_bytes(path.read_bytes()), check, 100 * times)


@TIMES
def test_torch_files_that_are_spoilt(times: int, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "weights.pth"
    torch.save({"conv.weight": torch.ones(2, 3), "bias": torch.zeros(2)}, path)

    def check(content: bytes) -> None:
        path.write_bytes(content)
        refused_or_read(lambda: read_tensors(path), tmp_path)

    fuzz(mutations.spoilt_bytes(path.read_bytes()), check, 50 * times)


@TIMES
def test_an_export_that_is_spoilt(times: int, copy: Path) -> None:
    pytest.importorskip("safetensors")
    target = copy.parent / "export"
    export_run(copy, target, ["safetensors"])
    whole = {path: path.read_bytes() for path in (target / "config.json", target / "model.safetensors")}

    def check(drawn: tuple[bool, bytes]) -> None:
        for path, content in whole.items():
            path.write_bytes(content)
        path = target / ("config.json" if drawn[0] else "model.safetensors")
        path.write_bytes(drawn[1])
        refused_or_read(lambda: load_folder(target), copy.parent)

    first, second = (
        mutations.spoilt(target / "config.json"),
        mutations.spoilt_bytes(whole[target / "model.safetensors"]),
    )
    fuzz(first.map(lambda content: (True, content)) | second.map(lambda content: (False, content)), check, 40 * times)
