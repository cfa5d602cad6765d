"""A run in a bucket: the bits of a local one, also after it was cut off at any request, and all that reads a run."""

from __future__ import annotations

import gc
import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import auxjax
from auxjax import manifest, metrics, storage
from auxjax.diagnose import diagnose
from auxjax.errors import AuxjaxError
from auxjax.export import export_run
from tests.digits_runs import config, interrupted, timeless
from tests.equal import equal
from tests.storage.objects import Bucket

RUN = "gs://bucket/run"


@pytest.fixture(scope="module")
def made(data_dir: str) -> Any:
    measured = {"diagnostics.names": ("similarity",), "diagnostics.every_steps": 1}
    return config(data_dir, **{"train.total_steps": 4, **measured})


@pytest.fixture(scope="module")
def whole(made: Any, tmp_path_factory: pytest.TempPathFactory) -> auxjax.Result:
    """The run on a disk, untouched."""
    return auxjax.train(made, tmp_path_factory.mktemp("whole"), progress=False)


def same(resumed: auxjax.Result, whole: auxjax.Result) -> None:
    """Parameters, scores and files are those of the run on a disk."""
    assert resumed.workdir is not None and whole.workdir is not None
    equal(resumed.state, whole.state)
    assert resumed.evaluation == whole.evaluation
    for name in ("metrics.jsonl", "diagnostics.jsonl"):
        assert timeless(metrics.read(resumed.workdir / name)) == timeless(metrics.read(whole.workdir / name))
    assert (resumed.workdir / "DONE").read_text() == (whole.workdir / "DONE").read_text()
    assert (resumed.workdir / "config.json").read_text() == (whole.workdir / "config.json").read_text()


def steps(bucket: Bucket, below: str = "run/checkpoints/") -> set[str]:
    return {name.removeprefix(below).partition("/")[0] for name in bucket.objects if name.startswith(below)}


def test_an_interrupted_run_ends_with_the_bits_of_a_local_one(
    bucket: Bucket, made: Any, whole: auxjax.Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(made, RUN, 2, monkeypatch)
    assert steps(bucket) == {"1", "2"}
    same(auxjax.train(made, RUN, progress=False), whole)
    assert whole.workdir is not None
    names = {path.name for path in whole.workdir.iterdir()}
    assert {name.removeprefix("run/").partition("/")[0] for name in bucket.objects} == names
    assert steps(bucket) == {path.name for path in (whole.workdir / "checkpoints").iterdir()}


class Cut:
    """Refuses every change of a bucket from the one on that fits, as if the process were killed there."""

    def __init__(self, fits: Callable[[str, str], bool]) -> None:
        self.fits, self.done = fits, False

    def __call__(self, method: str, path: str, query: Any) -> tuple[int, str] | None:
        name = f"{path}?{query.get('name', '')}"
        self.done = self.done or (method != "GET" and self.fits(method, name))
        return (403, "cut off") if self.done and method != "GET" else None


def cut_and_resumed(bucket: Bucket, made: Any, cut: Cut) -> auxjax.Result:
    bucket.refuse = cut
    try:
        auxjax.train(made, RUN, progress=False)
    except AuxjaxError as error:
        assert "\n" not in str(error)
    assert cut.done
    bucket.refuse = lambda *_: None
    gc.collect()  # Here, where what Orbax leaves is not an error.
    return auxjax.train(made, RUN, progress=False)


# What Orbax drops when it cannot write: coroutines and callbacks of event loops that are closed.
litter = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
# By what is asked, of which name, when what is there already, and which time: from there on all is refused.
MOMENTS = {
    "while the first step is written": ("POST", "run/checkpoints/1/inference/", "1/_CHECKPOINT_METADATA", 3),
    "between the manifest and the commit": ("POST", "run/checkpoints/2/commit_success.txt", "2/manifest.json", 1),
    "while a step is deleted": ("DELETE", "run/checkpoints/1/", "3/commit_success.txt", 2),
}


@litter
@pytest.mark.parametrize(
    "moment",
    [pytest.param(m, marks=() if m.startswith("between") else pytest.mark.slow_study) for m in MOMENTS],
)
def test_a_run_that_is_cut_off_ends_with_the_bits_of_a_local_one(
    moment: str, bucket: Bucket, made: Any, whole: auxjax.Result, caplog: pytest.LogCaptureFixture
) -> None:
    verb, what, after, number = MOMENTS[moment]
    seen = itertools.count(1)

    def fits(method: str, name: str) -> bool:
        fitting = method == verb and what in name and f"run/checkpoints/{after}" in bucket.objects
        return fitting and next(seen) == number

    same(cut_and_resumed(bucket, made, Cut(fits)), whole)
    assert "damaged" not in caplog.text
    assert not steps(bucket, "run/damaged/")


@litter
@pytest.mark.slow_study
@pytest.mark.parametrize("number", range(2, 340, 17))
def test_a_run_that_is_cut_off_anywhere_ends_with_the_bits_of_a_local_one(
    number: int, bucket: Bucket, made: Any, whole: auxjax.Result, caplog: pytest.LogCaptureFixture
) -> None:
    seen = iter(range(10_000))
    cut = Cut(lambda method, name: next(seen) >= number)
    same(cut_and_resumed(bucket, made, cut), whole)
    assert "damaged" not in caplog.text


def test_what_reads_a_run_reads_one_in_a_bucket(
    bucket: Bucket, made: Any, whole: auxjax.Result, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Evaluated, loaded, measured and exported; with a damaged newest step from the one before, which nothing moves."""
    auxjax.train(made, RUN, progress=False)
    assert whole.workdir is not None
    assert auxjax.evaluate(RUN) == auxjax.evaluate(whole.workdir)
    equal(auxjax.load_attached(RUN)[2], whole.state.variables)
    export_run(RUN, tmp_path / "exported", ["safetensors"])
    assert (tmp_path / "exported" / "model.safetensors").is_file()
    before = set(bucket.objects)
    (record,) = diagnose(RUN, ["similarity"], examples=8)
    assert json.loads(bucket.objects["run/diagnostics.jsonl"][1].splitlines()[-1])["examples"] == record["examples"]
    name = next(name for name in bucket.objects if name.startswith("run/checkpoints/4/inference/d/"))
    generation, data = bucket.objects[name]
    bucket.objects[name] = generation, data[:-1] + bytes([data[-1] ^ 1])
    with caplog.at_level(logging.WARNING, "auxjax"):
        equal(auxjax.load_attached(RUN)[2], auxjax.load_attached(RUN, 3)[2])
    assert "is not what was written" in caplog.text
    assert set(bucket.objects) == before
    same(auxjax.train(made, RUN, progress=False), whole)
    assert steps(bucket, "run/damaged/") == {"4-1"}


def test_a_step_that_is_copied_between_a_disk_and_a_bucket_is_whole_and_its_damage_is_seen(
    bucket: Bucket, tmp_path: Path
) -> None:
    """The sums are of two kinds: sha256 of what is written on a disk, in a bucket the MD5 that the store keeps."""
    folder = storage.folder("gs://bucket/run")
    for place in (folder / "7", tmp_path / "7"):
        for number in range(60):
            (place / "d").mkdir(parents=True, exist_ok=True)
            storage.write_text(place / "d" / f"{number}", f"content {number}")
        manifest.write(place, 7, sealed=True)
        assert manifest.verify(place) is None
    reads = [path for method, path, query in bucket.requests if query.get("alt") == "media" and "/d/" in path]
    assert reads == []
    copied = storage.folder("gs://bucket/copy") / "7"
    (tmp_path / "copy" / "7" / "d").mkdir(parents=True)
    for name in [*manifest.walk(folder / "7"), manifest.NAME]:
        (tmp_path / "copy" / "7" / name).write_bytes((folder / "7" / name).read_bytes())
        (copied / name).write_bytes((tmp_path / "7" / name).read_bytes())
    for place in (tmp_path / "copy" / "7", copied):
        assert manifest.verify(place) is None
        (place / "d" / "30").write_text("content 3\u0030"[:-1] + "1")
        assert manifest.verify(place) == "d/30 is not what was written"
