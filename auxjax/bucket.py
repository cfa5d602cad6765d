"""A folder in a bucket of Google Cloud Storage: what epath has no word for, through gcsfs, of the extra `tpu`."""

from __future__ import annotations

import base64
import contextlib
import errno
import importlib.util
import logging
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from etils import epath

from auxjax.errors import AuxjaxError, missing_extra


class Object(NamedTuple):
    """An object's bytes, and the MD5 that the store itself keeps of them, in hexadecimal; empty where it keeps none."""

    size: int
    md5: str


@contextlib.contextmanager
def told(path: object) -> Iterator[None]:
    """Makes an OSError of one line of every exception; the layers of a bucket have classes and lines of their own."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise
        raise OSError(errno.EIO, _one_line(error), str(path)) from error


def _one_line(error: Exception) -> str:
    kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())[:300]


def connect(folder: str, write: bool) -> epath.Path:
    """Returns a folder in a bucket that is there, and that may be seen by who is to `write`.

    Raises AuxjaxError for what is missing: gcsfs, credentials, the bucket, a permission, the network.
    """
    if importlib.util.find_spec("gcsfs") is None:
        raise missing_extra("gcsfs", "tpu")
    import fsspec

    # Where TensorFlow is installed epath would load it, to read a config.
    os.environ.setdefault("EPATH_USE_TF", "false")
    # Orbax's arrays are written by TensorStore, and by other processes: a listing that is remembered lacks them.
    fsspec.config.conf.setdefault("gs", {}).setdefault("use_listings_cache", False)
    # What fails is raised and told in one line; gcsfs would print it with its traceback as well.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    path = epath.Path(folder)
    _check(path, write)
    return path


def objects(folder: epath.Path) -> dict[str, Object]:
    """Returns every object below a folder, by its path there; reads none of them."""
    with told(folder):
        found = _system().find(str(folder), detail=True)
    start = len(str(folder).removeprefix("gs://")) + 1
    return {
        name[start:]: Object(int(about["size"]), base64.b64decode(about.get("md5Hash", "")).hex())
        for name, about in found.items()
        if not name.endswith("/")  # what the console makes to show an empty folder
    }


def remove(folder: epath.Path) -> None:
    """Removes every object below a folder, if there is any."""
    with contextlib.suppress(FileNotFoundError), told(folder):
        _system().rm(str(folder), recursive=True)


def move(folder: epath.Path, target: epath.Path) -> None:
    """Gives every object below a folder its name below `target`, within the store."""
    system = _system()
    for name in objects(folder):
        with told(folder):
            system.mv_file(f"{folder}/{name}", f"{target}/{name}")


def _system() -> Any:
    import fsspec

    return fsspec.filesystem("gs")


def _check(path: epath.Path, write: bool) -> None:
    """Raises AuxjaxError where the bucket is not there, or the account may not see it: Orbax looks to delete a step."""
    import google.api_core.exceptions as answers
    import google.auth.exceptions as credentials
    from google.cloud import storage

    name = path.parts[2] if len(path.parts) > 2 else ""
    if not name:
        raise AuxjaxError(f"workdir {str(path)!r} names no bucket: give gs://BUCKET/RUN")
    try:
        storage.Client().get_bucket(name, timeout=20, retry=None)
    except credentials.DefaultCredentialsError:
        raise AuxjaxError(
            f"workdir {str(path)!r}: no credentials for Google Cloud: run `gcloud auth application-default login`, set "
            "GOOGLE_APPLICATION_CREDENTIALS to a key file, or give the machine a service account"
        ) from None
    except (answers.NotFound, ValueError):
        raise AuxjaxError(
            f"workdir {str(path)!r}: there is no bucket gs://{name}: "
            f"make it (gcloud storage buckets create gs://{name} --location=REGION), or give another --workdir"
        ) from None
    except (answers.Forbidden, answers.Unauthorized) as error:
        if not write:  # Who may read the objects need not see the bucket.
            return
        raise AuxjaxError(
            f"workdir {str(path)!r}: bucket gs://{name} may not be used ({error.code} {error.message}): "
            "grant the account roles/storage.objectAdmin and roles/storage.legacyBucketReader on it"
        ) from None
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise AuxjaxError(f"workdir {str(path)!r}: Google Cloud Storage cannot be reached ({why})") from None
