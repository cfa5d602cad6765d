"""A bucket in memory: the part of Google Cloud Storage's JSON API that gcsfs, TensorStore and its own client use.

Objects have generations, and `ifGenerationMatch` is kept: what is written under a wrong one is refused with 412, as
TensorStore relies on. What is not served is answered with 501, so that a client's new request is seen and not guessed.
"""

from __future__ import annotations

import email.message
import email.parser
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.storage.objects import Bucket, Refused, check_generation, found, listing, resource, write


@contextmanager
def serve(name: str = "bucket") -> Iterator[tuple[str, Bucket]]:
    """Yields (URL, the bucket) of a server on this machine."""
    bucket = Bucket(name)
    handler = type("BucketHandler", (Handler,), {"bucket": bucket})
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", bucket
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Server(ThreadingHTTPServer):
    """Says nothing of clients that hang up, as TensorStore does with the connections that it has kept."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tells what went wrong, but for that."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def content(part: email.message.Message) -> bytes:
    """Returns the bytes of a part of a multipart message."""
    data = part.get_payload(decode=True)
    assert isinstance(data, bytes)
    return data


class Handler(BaseHTTPRequestHandler):
    """Serves one bucket."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # Else each answer waits 40 ms for the client's acknowledgement of its headers.
    bucket: Bucket

    def do_GET(self) -> None:
        """Answers a GET."""
        self.answer(self.get)

    def do_POST(self) -> None:
        """Answers a POST."""
        self.answer(self.post)

    def do_DELETE(self) -> None:
        """Answers a DELETE."""
        self.answer(self.delete)

    def log_message(self, *_: object) -> None:
        """Says nothing; `Bucket.requests` has them all."""

    def answer(self, method: Callable[[str, bytes], tuple[int, dict[str, str], bytes]]) -> None:
        """Serves a request, or tells why not."""
        body = self.body()
        url = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        self.bucket.requests.append((self.command, unquote(url.path), self.query))
        try:
            refused = self.bucket.refuse(self.command, unquote(url.path), self.query)
            if refused is not None:
                raise Refused(*refused)
            status, headers, data = method(url.path, body)
        except Refused as error:
            message = {"code": error.status, "message": str(error), "errors": [{"message": str(error)}]}
            status, headers, data = error.status, {}, json.dumps({"error": message}).encode()
        data = b"" if status in (204, 304) else data
        try:
            self.send_response(status)
            for key, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data)
        except ConnectionError:  # The client has gone, or was killed.
            self.close_connection = True

    def body(self) -> bytes:
        """Returns what the client sent."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def named(self, path: str, before: str = "/storage/v1") -> str | None:
        """Returns the object's name in a path, None where the path is that of the bucket; raises Refused for others."""
        match = re.fullmatch(re.escape(before) + r"/b/([^/]+)(?:/o(?:/(.+))?)?", path)
        if match is None:
            raise Refused(501, f"{self.command} {path} is not served")
        if match[1] != self.bucket.name:
            raise Refused(404, "The specified bucket does not exist.")
        return None if match[2] is None else unquote(match[2])

    def get(self, path: str, _: bytes) -> tuple[int, dict[str, str], bytes]:
        """Answers with an object's bytes, its metadata, a listing, or the bucket's metadata."""
        download = path.startswith("/download")
        name = self.named(path, "/download/storage/v1" if download else "/storage/v1")
        if name is None:
            if path.endswith("/o"):
                return 200, {}, json.dumps(listing(self.bucket, self.query)).encode()
            return 200, {}, json.dumps({"kind": "storage#bucket", "name": self.bucket.name, "id": "b"}).encode()
        with self.bucket.lock:
            generation, data = found(self.bucket, name)
            check_generation(self.bucket, name, self.query)
            if not download and self.query.get("alt") != "media":
                return 200, {}, json.dumps(resource(self.bucket, name)).encode()
        headers = {"x-goog-generation": str(generation), "Content-Type": "application/octet-stream"}
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            return 200, headers, data
        start = int(match[1]) if match[1] else max(len(data) - int(match[2]), 0)
        stop = min(int(match[2]) + 1, len(data)) if match[1] and match[2] else len(data)
        if start >= len(data):
            return 416, {"Content-Range": f"bytes */{len(data)}"}, b""
        return 206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}, data[start:stop]

    def post(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Takes an upload (media, multipart, or resumable, begun and then its pieces), or moves an object."""
        if "/moveTo/" in path:
            source, target = path.split("/moveTo/o/")
            with self.bucket.lock:
                made = write(self.bucket, unquote(target), found(self.bucket, str(self.named(source)))[1], self.query)
                del self.bucket.objects[str(self.named(source))]
            return 200, {}, json.dumps(made).encode()
        self.named(path, "/upload/storage/v1")
        kind = self.query.get("uploadType")
        if kind == "media":
            return self.written(self.query["name"], body, self.query)
        if kind == "multipart":
            header = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            _, about, data = email.parser.BytesParser().parsebytes(header + body).walk()
            name = json.loads(str(about.get_payload()))["name"]
            return self.written(name, content(data), self.query)
        if kind == "resumable" and "upload_id" not in self.query:
            number = str(next(self.bucket.numbers))
            name = self.query.get("name") or json.loads(body)["name"]
            self.bucket.uploads[number] = (name, self.query, bytearray())
            where = f"http://{self.headers['Host']}{path}?uploadType=resumable&upload_id={number}"
            return 200, {"Location": where}, b"{}"
        return self.piece(body)

    def piece(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Takes a piece of a resumable upload, whose object is made by its last one."""
        if self.query.get("upload_id") not in self.bucket.uploads:
            raise Refused(501, f"{self.command} {self.path} is not served")
        name, query, data = self.bucket.uploads[self.query["upload_id"]]
        data += body
        total = self.headers.get("Content-Range", "bytes */*").rpartition("/")[2]
        if total == "*" or len(data) < int(total):
            return 308, {"Range": f"bytes=0-{len(data) - 1}"} if data else {}, b""
        return self.written(name, bytes(data), query)

    def written(self, name: str, data: bytes, query: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
        """Makes an object and answers with its metadata."""
        return 200, {}, json.dumps(write(self.bucket, name, data, query)).encode()

    def delete(self, path: str, _: bytes) -> tuple[int, dict[str, str], bytes]:
        """Removes an object, or forgets an upload."""
        if self.query.get("upload_id") in self.bucket.uploads:
            del self.bucket.uploads[self.query["upload_id"]]
            return 499, {}, b""
        name = str(self.named(path))
        with self.bucket.lock:
            found(self.bucket, name)
            check_generation(self.bucket, name, self.query)
            del self.bucket.objects[name]
        return 204, {}, b""
