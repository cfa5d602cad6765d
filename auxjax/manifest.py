"""The sha256 sums of a checkpoint's files, kept among them: what they tell of damage that the reader would not see.

The manifest is written while the step still has its temporary name, so that a step of its final name always has one,
and it is sealed, the files that the commit itself writes added, right after. Where the sealing was interrupted
everything else is covered already, and of those two files no value is read.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from typing import Any

from auxjax import bucket, storage
from auxjax.storage import Folder, is_file, is_folder, is_remote, write_text

NAME = "manifest.json"
# What Orbax writes to commit a step, after everything else.
MARKERS = ("_CHECKPOINT_METADATA", "commit_success.txt")
_LARGEST = 64 * 2**20  # bytes of a manifest, enough for 400,000 files
_THREADS = 4  # hashing waits for the disk, and gives way to other threads


class Damaged(Exception):
    """What is wrong with a step's files, in a few words."""


def write(directory: Folder, step: int, *, sealed: bool) -> None:
    """Writes the manifest of a step's directory, whole or not at all; unsealed, without the commit's own files.

    Raises OSError where it cannot be written, or a file is no regular file.
    """
    try:
        found = walk(directory)
    except Damaged as error:
        raise OSError(f"{directory}: {error}") from None
    names = [name for name in found if sealed or name not in MARKERS]
    _store(directory, {"step": step, "sealed": sealed, "files": sums(directory, names)})


def seal(directory: Folder, step: int) -> None:
    """Adds to the manifest what the commit wrote; only those files are read, and a sealed one is left as it is."""
    try:
        manifest = _load(directory)
    except Damaged:
        write(directory, step, sealed=True)
        return
    if not manifest["sealed"]:
        names = [name for name in MARKERS if is_file(directory / name)]
        _store(directory, manifest | {"sealed": True, "files": manifest["files"] | sums(directory, names)})


def is_sealed(directory: Folder) -> bool:
    """Returns whether the manifest covers every file of a step that is whole."""
    return bool(_load(directory)["sealed"])


def verify(directory: Folder) -> str | None:
    """Returns what is wrong with a step's files, or None where each one is as it was written.

    Nothing outside the directory is read, whatever the manifest names, and nothing is read that is no regular file.
    """
    try:
        if not directory.name.isascii() or not directory.name.isdigit() or directory.name != str(int(directory.name)):
            raise Damaged("its name is no step")
        if not is_folder(directory):
            raise Damaged("it is no directory")
        found = walk(directory)
        manifest = _load(directory)
        if manifest["step"] != int(directory.name):
            raise Damaged(f"its manifest is of step {manifest['step']}")
        _compare(directory, found, manifest)
    except Damaged as error:
        return str(error)
    except OSError as error:
        # A bucket that does not answer says nothing of its objects, which do not rot.
        if is_remote(directory) and not isinstance(error, FileNotFoundError):
            raise
        return f"it cannot be read: {error.strerror or error}"
    except ValueError:  # a number of more digits than Python reads
        return "its name is no step"
    return None


def walk(directory: Folder) -> dict[str, int]:
    """Returns the size of every file below a directory by its path there; raises Damaged for what is no plain file."""
    if is_remote(directory):
        return {name: made.size for name, made in bucket.objects(directory).items() if name != NAME}
    sizes: dict[str, int] = {}
    waiting = [directory]
    while waiting:
        with os.scandir(waiting.pop()) as found:
            entries = list(found)
        for entry in entries:
            name = os.path.relpath(entry.path, directory)
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                waiting.append(directory / name)
            elif stat.S_ISREG(mode):
                sizes[name] = entry.stat(follow_symlinks=False).st_size
            else:
                raise Damaged(f"{shown(name)} is {'a link' if stat.S_ISLNK(mode) else 'no file'}")
    sizes.pop(NAME, None)
    return sizes


def sums(directory: Folder, names: Iterable[str], like: Mapping[str, list[Any]] | None = None) -> dict[str, list[Any]]:
    """Returns `[bytes, sum]` of files by their path in a directory; with `like`, sums of the kind that it has of each.

    A sum is the file's sha256, or in a bucket `md5:` and that of the object, which the store keeps and nobody has to
    read. It is said of each file, since a run may be copied from the one to the other.
    """
    kept = bucket.objects(directory) if is_remote(directory) else {}

    def one(name: str) -> tuple[str, list[Any]]:
        md5 = like[name][1].startswith("md5:") if like is not None else name in kept and kept[name].md5 != ""
        if md5 and name in kept and kept[name].md5:
            return name, [kept[name].size, f"md5:{kept[name].md5}"]
        with (directory / name).open("rb") as file:
            digest = hashlib.file_digest(file, "md5" if md5 else "sha256").hexdigest()
            return name, [file.tell(), f"md5:{digest}" if md5 else digest]

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return dict(pool.map(one, sorted(names)))


def shown(text: str, most: int = 120) -> str:
    """Returns a text of somebody else's making on one short line."""
    return repr(text if len(text) <= most else f"{text[: most - 3]}...")[1:-1]


def _compare(directory: Folder, found: dict[str, int], manifest: dict[str, Any]) -> None:
    """Raises Damaged for the first file that is missing, too many or changed; sizes first, which cost nothing."""
    files, sealed = manifest["files"], manifest["sealed"]
    for name in sorted(files.keys() - found.keys()):
        raise Damaged(f"{shown(name)} is missing")
    for name in sorted(found.keys() - files.keys()):
        if sealed or name not in MARKERS:
            raise Damaged(f"{shown(name)} is not in its manifest")
    for name, (size, _) in files.items():
        if found[name] != size:
            raise Damaged(f"{shown(name)} has {found[name]} bytes, not {size}")
    for name, now in sums(directory, files, files).items():
        if now != files[name]:
            raise Damaged(f"{shown(name)} is not what was written")


def _load(directory: Folder) -> dict[str, Any]:
    """Returns the manifest; raises Damaged where it is missing, or differs in a byte from one that is written here."""
    path = directory / NAME
    if not is_file(path):
        raise Damaged("it has no manifest")
    if storage.size(path) > _LARGEST:
        raise Damaged("its manifest is too large")
    try:
        text = path.read_bytes().decode("ascii")
        manifest = json.loads(text)
        whole = _text(manifest) == text
    except (ValueError, TypeError, RecursionError):
        whole = False
    if not whole or not _well_formed(manifest):
        raise Damaged("its manifest is garbled")
    return dict(manifest)


def _well_formed(manifest: Any) -> bool:
    return (
        isinstance(manifest, dict)
        and set(manifest) == {"step", "sealed", "files"}
        and type(manifest["step"]) is int
        and type(manifest["sealed"]) is bool
        and isinstance(manifest["files"], dict)
        and all(
            isinstance(entry, list) and len(entry) == 2 and type(entry[0]) is int and isinstance(entry[1], str)
            for entry in manifest["files"].values()
        )
    )


def _store(directory: Folder, manifest: dict[str, Any]) -> None:
    if is_remote(directory):
        write_text(directory / NAME, _text(manifest))
        return
    temporary = directory.parent / f".{directory.name}.{NAME}.{os.getpid()}"
    try:
        temporary.write_text(_text(manifest), encoding="ascii")
        os.replace(temporary, directory / NAME)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _text(manifest: Any) -> str:
    return json.dumps(manifest, indent=0, sort_keys=True) + "\n"
