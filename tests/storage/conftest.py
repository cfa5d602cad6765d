"""A bucket for the tests of this folder: `gs://bucket`, which every client in this process finds on this machine."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest

from tests.storage.fake_gcs import serve
from tests.storage.objects import Bucket

# gcsfs asks by gRPC what kind each bucket is, which the server does not answer; it reads this when it is imported.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


@pytest.fixture(scope="session")
def gcs() -> Iterator[tuple[str, Bucket]]:
    """(URL, bucket) of one server for the whole session: TensorStore reads where it is but once."""
    if importlib.util.find_spec("gcsfs") is None:
        pytest.skip("needs gcsfs, of the extra tpu")
    with serve() as (url, made), pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", url)
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "any")
        yield url, made


@pytest.fixture
def bucket(gcs: tuple[str, Bucket]) -> Iterator[Bucket]:
    """The bucket, empty."""
    gcs[1].objects.clear()
    gcs[1].requests.clear()
    yield gcs[1]
    gcs[1].refuse = lambda method, path, query: None
