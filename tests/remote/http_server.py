"""A web server on this machine, as the stand-ins of servers are."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar


class HttpServer(ThreadingHTTPServer):
    """At a free port; ``handler``: a ``Handler``."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler, ABC):
    """Answers GET and HEAD by ``get``; keeps connections and says nothing."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self.get(body=False)

    def do_GET(self) -> None:
        self.get(body=True)

    @abstractmethod
    def get(self, body: bool) -> None: ...

    def log_message(self, *_: Any) -> None:
        pass


Server = TypeVar("Server", bound=HttpServer)


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """``server`` at work."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
