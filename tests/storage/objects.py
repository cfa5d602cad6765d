"""The objects of a bucket in memory, with their generations and what holds of them."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping

PAGE = 50  # Names a page of a listing; small, so that the clients turn pages.


@dataclasses.dataclass
class Bucket:
    """Its objects as `{name: (generation, bytes)}`, and every request as (method, path, query).

    `refuse` answers a request with (status, message) in place of serving it, None to serve it.
    """

    name: str
    objects: dict[str, tuple[int, bytes]] = dataclasses.field(default_factory=dict)
    uploads: dict[str, tuple[str, Mapping[str, str], bytearray]] = dataclasses.field(default_factory=dict)
    requests: list[tuple[str, str, Mapping[str, str]]] = dataclasses.field(default_factory=list)
    refuse: Callable[[str, str, Mapping[str, str]], tuple[int, str] | None] = lambda method, path, query: None
    numbers: Iterator[int] = dataclasses.field(default_factory=lambda: itertools.count(1))
    lock: threading.RLock = dataclasses.field(default_factory=threading.RLock)


class Refused(Exception):
    """An answer that is an error: a status and a message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def resource(bucket: Bucket, name: str) -> dict[str, object]:
    """Returns an object's metadata."""
    generation, data = found(bucket, name)
    now = "2026-01-01T00:00:00.000Z"
    return {
        "kind": "storage#object", "id": f"{bucket.name}/{name}/{generation}", "bucket": bucket.name, "name": name,
        "generation": str(generation), "metageneration": "1", "size": str(len(data)), "timeCreated": now,
        "updated": now, "storageClass": "STANDARD", "contentType": "application/octet-stream", "etag": str(generation),
        "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
    }  # fmt: skip


def found(bucket: Bucket, name: str) -> tuple[int, bytes]:
    """Returns (generation, bytes) of an object; raises Refused(404) where there is none."""
    if name not in bucket.objects:
        raise Refused(404, f"No such object: {bucket.name}/{name}")
    return bucket.objects[name]


def check_generation(bucket: Bucket, name: str, query: Mapping[str, str]) -> None:
    """Raises Refused where a precondition does not hold; an object that is not there has generation 0."""
    current = str(bucket.objects.get(name, (0, b""))[0])
    if query.get("ifGenerationMatch", current) != current:
        raise Refused(412, "At least one of the pre-conditions you specified did not hold.")
    if query.get("ifGenerationNotMatch") == current:
        raise Refused(304, "Not modified")


def write(bucket: Bucket, name: str, data: bytes, query: Mapping[str, str]) -> dict[str, object]:
    """Makes an object, whole, in place of what was there; returns its metadata."""
    with bucket.lock:
        check_generation(bucket, name, query)
        bucket.objects[name] = (next(bucket.numbers), data)
        return resource(bucket, name)


def listing(bucket: Bucket, query: Mapping[str, str]) -> dict[str, object]:
    """Returns a page of names, those below a delimiter cut to prefixes."""
    if query.keys() & {"startOffset", "endOffset", "versions"}:
        raise Refused(501, f"a listing by {query} is not served")
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    with bucket.lock:
        rows: dict[str, dict[str, object] | None] = {}
        for name in sorted(bucket.objects):
            if not name.startswith(prefix):
                continue
            head, mark, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            rows[prefix + head + mark if mark else name] = None if mark else resource(bucket, name)
    rest = [row for row in rows.items() if row[0] > query.get("pageToken", "")]
    page = rest[: min(PAGE, int(query.get("maxResults", PAGE)))]
    answer: dict[str, object] = {"kind": "storage#objects", "items": [item for _, item in page if item is not None]}
    answer["prefixes"] = [name for name, item in page if item is None]
    return answer | ({"nextPageToken": page[-1][0]} if len(page) < len(rest) else {})
