"""Where prepared sets lie: the folders that TFDS writes, found by name."""

from __future__ import annotations

import os
import re
from pathlib import Path

from auxjax.errors import AuxjaxError


def root(data_dir: str) -> Path:
    """Returns where TFDS keeps its sets: `data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    if "://" in chosen:
        raise AuxjaxError(f"data_dir {chosen!r} is no local folder: copy the set to this machine, or mount the bucket")
    return Path(chosen).expanduser().absolute()


def find(name: str, folder: Path) -> Path | None:
    """Returns the newest prepared version of a set (`name` or `name/config`) below `folder`, None where there is none.

    Raises AuxjaxError for a name that leaves open which of several configs is meant.
    """
    if not re.fullmatch(r"\w+(/\w[\w.+-]*)?", name):
        return None
    versions = [info.parent for info in (folder / name).glob("**/dataset_info.json") if _whole(info, folder)]
    configs = sorted({str(version.parent.relative_to(folder)) for version in versions})
    if len(configs) > 1:
        raise AuxjaxError(f"data set {name!r} has several configs in {folder}: choose {' or '.join(configs)}")
    return max(versions, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)], default=None)


def prepared(folder: Path) -> list[str]:
    """Returns the names of all sets in `folder`."""
    infos = folder.glob("*/**/dataset_info.json")
    return sorted({info.relative_to(folder).parts[0] for info in infos if _whole(info, folder)})


def _whole(info: Path, folder: Path) -> bool:
    """TFDS writes into a folder named incomplete.*, which it renames when all is there."""
    return not any(part.startswith("incomplete.") for part in info.relative_to(folder).parts)
