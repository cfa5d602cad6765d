"""The manifest of a checkpoint finds every damage to its files, and reads nothing that is not one of them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auxjax import checkpoint, manifest
from experiments.recovery.damage import DAMAGES
from tests import small


def step(folder: Path, sealed: bool = True) -> Path:
    """A small step 3 of plain files, with its manifest."""
    directory = folder / "3"
    (directory / "state" / "d").mkdir(parents=True)
    (directory / "state" / "d" / "0f").write_bytes(bytes(range(256)))
    (directory / "state" / "empty").write_bytes(b"")
    for name in manifest.MARKERS:
        (directory / name).write_text("committed")
    manifest.write(directory, 3, sealed=sealed)
    return directory


def test_a_step_as_it_was_written_is_whole(tmp_path: Path) -> None:
    directory = step(tmp_path)
    assert manifest.verify(directory) is None
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("state/d/0f", bytes(range(255)) + b"\xfe", "state/d/0f is not what was written"),
        ("state/d/0f", b"short", "state/d/0f has 5 bytes, not 256"),
        ("state/d/0f", None, "state/d/0f is missing"),
        ("state/empty", None, "state/empty is missing"),
        ("state/more", b"", "state/more is not in its manifest"),
        ("commit_success.txt", b"commixted", "commit_success.txt is not what was written"),
        ("manifest.json", None, "it has no manifest"),
        ("manifest.json", b"{}", "its manifest is garbled"),
        ("manifest.json", b"[" * 100_000, "its manifest is garbled"),
        ("manifest.json", b"\xff", "its manifest is garbled"),
    ],
)
def test_each_damage_is_named(name: str, content: bytes | None, reason: str, tmp_path: Path) -> None:
    directory = step(tmp_path)
    (directory / name).unlink(missing_ok=True) if content is None else (directory / name).write_bytes(content)
    assert manifest.verify(directory) == reason


def test_every_bit_of_a_manifest_counts(tmp_path: Path) -> None:
    directory = step(tmp_path)
    path = directory / manifest.NAME
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        assert manifest.verify(directory), place


def test_a_manifest_of_the_same_meaning_in_other_bytes_is_garbled(tmp_path: Path) -> None:
    directory = step(tmp_path)
    path = directory / manifest.NAME
    for change in (lambda text: text + "\n", lambda text: text.replace("\n", "\t", 1), lambda text: text[:-1]):
        path.write_text(change(path.read_text()))
        assert manifest.verify(directory) == "its manifest is garbled"
        manifest.write(directory, 3, sealed=True)


def test_until_the_commit_is_sealed_only_its_own_files_are_free(tmp_path: Path) -> None:
    directory = step(tmp_path, sealed=False)
    (directory / "commit_success.txt").write_text("of another text")
    assert manifest.verify(directory) is None and not manifest.is_sealed(directory)
    (directory / "state" / "d" / "0f").write_bytes(b"x" * 256)
    assert manifest.verify(directory) == "state/d/0f is not what was written"
    shutil.rmtree(directory)
    directory = step(tmp_path, sealed=False)
    manifest.seal(directory, 3)
    assert manifest.verify(directory) is None and manifest.is_sealed(directory)
    (directory / "commit_success.txt").write_text("damaged")
    assert manifest.verify(directory) is not None


def test_sealing_does_not_bless_what_was_damaged_before(tmp_path: Path) -> None:
    directory = step(tmp_path, sealed=False)
    (directory / "state" / "d" / "0f").write_bytes(b"x" * 256)
    manifest.seal(directory, 3)
    assert manifest.verify(directory) == "state/d/0f is not what was written"


@pytest.mark.parametrize("name", ["4", "03", "three", "9" * 5000, "²"])
def test_a_step_under_another_name_is_not_whole(name: str, tmp_path: Path) -> None:
    if len(name) > 255:
        assert manifest.verify(tmp_path / name) == "its name is no step"
        return
    directory = step(tmp_path).rename(tmp_path / name)
    assert manifest.verify(directory) in ("its name is no step", "its manifest is of step 3")


def test_an_empty_directory_a_file_and_a_link_are_no_steps(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").write_text("")
    directory = step(tmp_path)
    (tmp_path / "4").symlink_to(directory)
    assert [manifest.verify(tmp_path / name) for name in "1245"] == [
        "it has no manifest", "it is no directory", "it is no directory", "it is no directory",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "state/../../outside", "a\0b", ""])
def test_a_manifest_reaches_no_file_outside(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = step(tmp_path)
    (tmp_path / "outside").write_text("secret")
    written = json.loads((directory / manifest.NAME).read_text())
    written["files"][name] = [6, "0" * 64]
    (directory / manifest.NAME).write_text(json.dumps(written, indent=0, sort_keys=True) + "\n")
    read: list[str] = []
    monkeypatch.setattr(manifest, "sums", lambda folder, names: read.extend(names))
    assert str(manifest.verify(directory)).endswith("is missing")
    assert read == []


def test_links_and_pipes_are_refused_unread(tmp_path: Path) -> None:
    directory = step(tmp_path)
    (directory / "state" / "d" / "0f").unlink()
    (directory / "state" / "d" / "0f").symlink_to("/etc/hostname")
    assert manifest.verify(directory) == "state/d/0f is a link"
    (directory / "state" / "d" / "0f").unlink()
    os.mkfifo(directory / "state" / "d" / "0f")  # opening it would wait for ever
    assert manifest.verify(directory) == "state/d/0f is no file"


def test_a_full_disk_leaves_the_manifest_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = step(tmp_path, sealed=False)

    def full(self: Path, *args: Any, **kwargs: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        manifest.seal(directory, 3)
    assert manifest.verify(directory) is None
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_two_hundred_random_damages_of_a_real_checkpoint_are_found(tmp_path: Path) -> None:
    with checkpoint.open_manager(tmp_path) as manager:
        checkpoint.save(manager, small.state(small.program(small.heads())), {"next": 0}, 0.5)
    whole, copy = tmp_path / "checkpoints" / "0", tmp_path / "copy" / "0"
    assert manifest.verify(whole) is None
    rng, missed = np.random.default_rng(0), []
    for number in range(204):
        shutil.copytree(whole, copy)
        done = DAMAGES[number % len(DAMAGES)](copy, rng)
        missed += [] if manifest.verify(copy) else [done]
        shutil.rmtree(copy)
    assert missed == []
