"""Where a run is kept: a local folder, or one in a bucket, gs://, which epath reads and writes through gcsfs.

A bucket has no appending, no renaming and no folders, but an object is there whole or not at all. On a slice of a TPU
it is what every host reaches.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from etils import epath

from auxjax import bucket
from auxjax.bucket import told
from auxjax.errors import AuxjaxError

# What a run's files are found with; both have pathlib's reading, listing, joining and deleting.
Folder: TypeAlias = Path | epath.Path
PathLike: TypeAlias = str | os.PathLike[str]


def is_remote(path: PathLike) -> bool:
    """Returns whether a path is in a bucket; raises AuxjaxError for a scheme that is not gs."""
    scheme, mark, _ = os.fspath(path).partition("://")
    if mark and scheme != "gs":
        known = "is no kind of folder that is known: give a local one or gs://"
        raise AuxjaxError(f"{os.fspath(path)}: {scheme}:// {known}")
    return bool(mark)


def place(workdir: PathLike, *, write: bool = False) -> Folder:
    """Returns the absolute path of a folder to read, or to `write`, local or gs://, whether it is there or not.

    Raises AuxjaxError where a bucket cannot be reached: no gcsfs, no credentials, no such bucket, no permission.
    """
    if not is_remote(workdir):
        return Path(os.path.abspath(os.path.expanduser(workdir)))
    path = bucket.connect(os.fspath(workdir), write)
    with refused(path, "read"):
        path.exists()
    return path


def folder(workdir: PathLike) -> Folder:
    """Returns the absolute path of a folder that can be written, made if need be; raises AuxjaxError if it cannot."""
    path = place(workdir, write=True)
    _probe(path)
    return path


def local_folder(workdir: PathLike) -> Path:
    """Returns what `folder` does; raises AuxjaxError for a bucket, too."""
    path = local_place(workdir)
    _probe(path)
    return path


def local_place(path: PathLike) -> Path:
    """Returns the absolute path of what has to be on this machine; raises AuxjaxError for a bucket."""
    if "://" in os.fspath(path):
        raise AuxjaxError(f"{os.fspath(path)} must be a local folder: only the folder of a run may be in a bucket")
    return Path(os.path.abspath(os.path.expanduser(path)))


def read_text(path: Folder) -> str:
    """Returns a file's text, what is no UTF-8 replaced; raises OSError where it cannot be read."""
    with told(path):
        return str(path.read_bytes().decode("utf-8", errors="replace"))


def write_json(path: Folder, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def write_text(path: Folder, text: str) -> None:
    """Writes a file whole or not at all; raises OSError where it cannot, in a bucket too."""
    if is_remote(path):
        with told(path):
            path.write_text(text)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # or a machine that loses its power may leave an empty file of the new name
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def is_file(path: Folder) -> bool:
    """Returns whether a path is a file, and no link to one."""
    if not is_remote(path):
        return Path(path).is_file() and not Path(path).is_symlink()
    with told(path):
        return bool(path.exists())


def is_folder(path: Folder) -> bool:
    """Returns whether a path is a folder, and no link to one."""
    if not is_remote(path):
        return Path(path).is_dir() and not Path(path).is_symlink()
    with told(path):
        return bool(path.is_dir())


def children(path: Folder) -> list[Folder]:
    """Returns what is in a folder, in no order; nothing where it is not there, as an empty one is not in a bucket."""
    with told(path):
        return list(path.iterdir()) if path.is_dir() else []


def size(path: Folder) -> int:
    """Returns the bytes of a file; raises OSError where there is none."""
    if not is_remote(path):
        return os.stat(path).st_size
    with told(path):
        return int(epath.Path(path).stat().length)


def remove_tree(path: Folder) -> None:
    """Removes a folder with all that is in it, if it is there."""
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    bucket.remove(path)


def move(path: Folder, target: Folder) -> None:
    """Moves a folder with all that is in it; in a bucket object by object, none of them through this machine."""
    if not is_remote(path):
        target.parent.mkdir(exist_ok=True)
        shutil.move(path, target)
        return
    bucket.move(path, target)


def key_value_store(directory: Folder) -> dict[str, str]:
    """Returns what TensorStore finds a folder by."""
    if not is_remote(directory):
        return {"driver": "file", "path": f"{directory}/"}
    name, _, path = str(directory).removeprefix("gs://").partition("/")
    return {"driver": "gcs", "bucket": name, "path": f"{path}/"}


class Lines:
    """A text that grows by lines: a local file has each one at once, an object in a bucket when it is flushed.

    An object cannot be appended to, so its text is kept in memory and written whole. A run flushes before it saves a
    checkpoint, so that what goes on from the checkpoint finds every line before it.
    """

    def __init__(self, path: Folder) -> None:
        self._path = path
        self._file = None if is_remote(path) else open(path, "a")  # noqa: SIM115
        self._text: list[str] = []
        self._written = 0
        if self._file is None:
            with told(path):
                self._text = [path.read_text()] if path.exists() else []
            self._written = len(self._text)

    def append(self, line: str) -> None:
        """Adds a line, its end included; raises OSError where that cannot be, or would be into a removed file."""
        if self._file is None:
            self._text.append(line)
            return
        if not os.fstat(self._file.fileno()).st_nlink:
            raise FileNotFoundError(errno.ENOENT, "removed while the run was writing it", str(self._path))
        self._file.write(line)
        self._file.flush()

    def flush(self) -> None:
        """Hands every line to the disk or the bucket."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        elif len(self._text) > self._written:
            write_text(self._path, "".join(self._text))
            self._written = len(self._text)

    def close(self) -> None:
        """Hands every line over, and closes the file."""
        if self._file is None:
            self.flush()
        else:
            self._file.close()


@contextmanager
def refused(path: Folder, what: str) -> Iterator[None]:
    """Turns what a disk or a bucket refuses into an AuxjaxError of one line."""
    try:
        with told(path):
            yield
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        cure = "; grant the account roles/storage.objectAdmin on the bucket, or" if is_remote(path) else ";"
        raise AuxjaxError(
            f"workdir {str(path)!r} cannot be {what}: {reason}{cure} give --workdir a folder of your own"
        ) from None


def _probe(path: Folder) -> None:
    """Raises AuxjaxError where nothing can be written in a folder, which is made if need be."""
    probe = path / f".write_test_{uuid.uuid4().hex}"  # processes of several hosts may look at once
    with refused(path, "written"):
        path.mkdir(parents=True, exist_ok=True)
        probe.write_text("auxjax")
        probe.unlink()
