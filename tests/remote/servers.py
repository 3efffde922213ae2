"""A store that speaks S3 and a web server, on this machine."""

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from tests.remote.http_server import Handler, HttpServer, serving

SECRET = "NOT-TO-BE-SEEN"
BUCKET = "bucket"


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server with an empty bucket, whose credentials this process and its children have."""
    pytest.importorskip("s3fs")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ENDPOINT_URL", address)
    patch.setenv("AWS_ACCESS_KEY_ID", "name")
    patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    try:
        bucket().create_bucket(Bucket=BUCKET)
        yield address
    finally:
        patch.undo()
        server.stop()


def bucket() -> Any:
    """boto3's client of the server."""
    import boto3

    return boto3.client("s3")


class WebServer(HttpServer):
    """Serves ``files`` (path -> bytes) with ETags. ``ranges``: whether it knows ranges; ``cuts``: the numbers of the
    GET requests, from 0 on, whose connection it cuts after half of the bytes; ``gets``: the ranges asked for so far;
    ``queries``: those that were sent."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.files: dict[str, bytes] = {}
        self.ranges, self.etags, self.cuts = True, True, set[int]()
        self.gets: list[tuple[int, int] | None] = []
        self.queries: list[str] = []
        self.lock = threading.Lock()


class _Handler(Handler):
    server: WebServer

    def get(self, body: bool) -> None:
        path, _, query = self.path.partition("?")
        data = self.server.files.get(path)
        if data is None or "denied" in query:
            self.send_response(403 if data else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        part = (int(asked[1]), min(int(asked[2]) + 1, len(data))) if asked and self.server.ranges else None
        whole, data = len(data), data[slice(*part)] if part else data
        with self.server.lock:
            number = len(self.server.gets)
            if body:
                self.server.gets.append(part)
                self.server.queries.append(query)
        self.send_response(206 if part else 200)
        self.send_header("Content-Length", str(len(data)))
        if part:
            self.send_header("Content-Range", f"bytes {part[0]}-{part[1] - 1}/{whole}")
        if self.server.etags:
            self.send_header("ETag", f'"{hash(self.server.files[path]):x}"')
        self.end_headers()
        if not body:
            return
        if number in self.server.cuts:
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        try:
            self.wfile.write(data)
        except OSError:  # who asked has heard enough
            self.close_connection = True


def web_server() -> AbstractContextManager[WebServer]:
    pytest.importorskip("aiohttp")
    return serving(WebServer())
