"""The checkout as one archive: tracked files as they are now, new files that git does not ignore, commit and diff."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

from experiments.launch.shell import LaunchError, say

_LARGE = 200e6


def files(root: Path) -> list[str]:
    """Returns the paths of all files in a checkout that git tracks or does not ignore, less the deleted ones."""
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").decode().split("\0")
    return sorted({path for path in listed if path and os.path.lexists(root / path) and not (root / path).is_dir()})


def pack(root: Path, archive: Path) -> None:
    """Writes `source/...` and `sync/{commit,diff.patch,status,files}`; raises LaunchError outside a git checkout."""
    paths = files(root)
    size = sum((root / path).lstat().st_size for path in paths)
    if size > _LARGE:
        largest = max(paths, key=lambda path: (root / path).lstat().st_size)
        raise LaunchError(
            f"the checkout has {size / 1e6:.0f} MB, {largest} the largest file: add what no run needs to .gitignore"
        )
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--short")
    notes = {
        "commit": commit,
        "diff.patch": _git(root, "diff", "HEAD", "--binary"),
        "status": changed,
        "files": "".join(f"{path}\0" for path in paths).encode(),
    }
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz", compresslevel=6) as tar:
        for path in paths:
            tar.add(root / path, f"source/{path}", recursive=False)
        for name, content in notes.items():
            info = tarfile.TarInfo(f"sync/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    edited = len(changed.splitlines())
    say(
        f"packed {len(paths)} files ({archive.stat().st_size / 1e6:.1f} MB) of commit {commit.decode()[:10]}"
        f"{f', {edited} not committed' if edited else ''}: {archive}"
    )


def _git(root: Path, *arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True)
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip().splitlines()
        raise LaunchError(f"{root} is no git checkout with a commit: {message[-1] if message else 'git failed'}")
    return done.stdout
