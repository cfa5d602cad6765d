"""storage: one way to a local folder and to one in a bucket, and one line where there is none."""

from __future__ import annotations

import builtins
import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from auxjax import doctor, storage
from auxjax.errors import AuxjaxError
from tests.storage.objects import Bucket


@pytest.fixture(params=["local", "gs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> storage.Folder:
    if request.param == "local":
        return storage.folder(tmp_path / "new" / "run")
    request.getfixturevalue("bucket")
    return storage.folder("gs://bucket/new/run")


def test_a_file_is_written_read_listed_and_deleted(folder: storage.Folder) -> None:
    storage.write_json(folder / "a.json", {"b": [1, "\u00e9"]})
    storage.write_text(folder / "checkpoints" / "x", "") if storage.is_remote(folder) else None
    assert (folder / "a.json").read_text() == '{\n "b": [\n  1,\n  "\\u00e9"\n ]\n}\n'
    storage.write_text(folder / "a.json", "new")
    assert (folder / "a.json").read_text() == "new"
    assert [path.name for path in folder.iterdir() if path.name != "checkpoints"] == ["a.json"]
    assert folder.is_dir() and not (folder / "b").exists()
    (folder / "a.json").unlink()
    (folder / "a.json").unlink(missing_ok=True)
    assert not (folder / "a.json").exists()


def test_lines_go_on_where_they_ended(folder: storage.Folder) -> None:
    path = folder / "metrics.jsonl"
    for text in ("first", "second"):
        lines = storage.Lines(path)
        lines.append(f"{text} 1\n")
        lines.append(f"{text} 2\n")
        lines.flush()
        assert path.read_text().endswith(f"{text} 1\n{text} 2\n")
        lines.append(f"{text} 3\n")
        lines.close()
    assert path.read_text() == "first 1\nfirst 2\nfirst 3\nsecond 1\nsecond 2\nsecond 3\n"


def test_lines_in_a_bucket_are_written_when_they_are_flushed_and_only_if_there_are_new_ones(bucket: Bucket) -> None:
    lines = storage.Lines(storage.folder("gs://bucket/run") / "metrics.jsonl")
    lines.append("a\n")
    assert "run/metrics.jsonl" not in bucket.objects
    lines.flush()
    written = bucket.objects["run/metrics.jsonl"]
    assert written[1] == b"a\n"
    lines.flush()
    lines.close()
    assert bucket.objects["run/metrics.jsonl"] == written


def test_what_another_process_writes_is_seen(bucket: Bucket) -> None:
    folder = storage.folder("gs://bucket/run")
    storage.write_text(folder / "a", "")
    assert [path.name for path in folder.iterdir()] == ["a"] and not (folder / "DONE").exists()
    bucket.objects["run/DONE"] = (999, b"{}")
    assert (folder / "DONE").exists()
    assert [path.name for path in folder.iterdir()] == ["DONE", "a"]
    del bucket.objects["run/DONE"]
    assert not (folder / "DONE").exists()


def test_a_write_that_is_cut_off_leaves_what_was_there(folder: storage.Folder, request: Any, monkeypatch: Any) -> None:
    path = folder / "config.json"
    storage.write_text(path, "old")
    if storage.is_remote(folder):
        bucket = request.getfixturevalue("bucket")
        bucket.refuse = lambda method, path, query: (403, "no") if method == "POST" else None
    else:
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError):
        storage.write_text(path, "new")
    assert path.read_text() == "old"
    assert [other.name for other in folder.iterdir()] == ["config.json"]


def test_the_doctor_tries_a_bucket(bucket: Bucket) -> None:
    assert "gs://bucket/run, writable, through gcsfs 20" in doctor.folder("workdir", "gs://bucket/run").found
    assert "there is no bucket gs://other" in doctor.folder("workdir", "gs://other/run").problem
    assert not bucket.objects


def one_line(workdir: str, *parts: str) -> None:
    with pytest.raises(AuxjaxError) as error:
        storage.folder(workdir)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_a_bucket_that_is_not_there(bucket: Bucket) -> None:
    one_line("gs://other/run", "'gs://other/run': there is no bucket gs://other: make it (gcloud storage buckets")
    one_line("gs://", "workdir 'gs://' names no bucket: give gs://BUCKET/RUN")
    with pytest.raises(AuxjaxError, match="there is no bucket gs://other"):
        storage.place("gs://other/run")


def test_a_bucket_that_may_not_be_seen_can_be_read_alone(bucket: Bucket) -> None:
    bucket.objects["run/DONE"] = (1, b"{}")
    bucket.refuse = lambda method, path, query: (403, "lacks storage.buckets.get") if path.endswith("/bucket") else None
    one_line("gs://bucket/run", "(403 ", "lacks storage.buckets.get", "grant the account roles/storage.")
    assert (storage.place("gs://bucket/run") / "DONE").read_text() == "{}"


def test_a_bucket_that_may_not_be_written(bucket: Bucket) -> None:
    bucket.refuse = lambda method, path, query: (403, "lacks storage.objects.create") if method == "POST" else None
    one_line("gs://bucket/run", "cannot be written: Forbidden: ", "lacks storage.objects.create", "objectAdmin")


def test_a_bucket_that_may_not_be_read(bucket: Bucket) -> None:
    bucket.refuse = lambda method, path, query: (401, "Anonymous caller") if "/o" in path else None
    with pytest.raises(AuxjaxError, match=r"'gs://bucket/run' cannot be read: .*Anonymous caller"):
        storage.place("gs://bucket/run")


def test_no_credentials(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real lookup of credentials, on a machine that has none."""
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    one_line("gs://bucket/run", "no credentials for Google Cloud: run `gcloud auth application-default login`")


def test_no_network(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    one_line("gs://bucket/run", "Google Cloud Storage cannot be reached (ConnectionError")


def test_gcsfs_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gcsfs" else found(name))
    one_line("gs://bucket/run", "package 'gcsfs' is missing: pip install 'auxjax[tpu]'")


def test_other_schemes_are_refused() -> None:
    one_line("s3://bucket/run", "s3:// is no kind of folder that is known: give a local one or gs://")
    with pytest.raises(AuxjaxError, match="gs://bucket/run must be a local folder"):
        storage.local_folder("gs://bucket/run")


def test_a_local_folder_needs_nothing_of_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        assert not name.startswith(("gcsfs", "google"))
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert storage.folder(tmp_path / "run") == tmp_path / "run"
    assert storage.local_place("~/x") == Path.home() / "x"
