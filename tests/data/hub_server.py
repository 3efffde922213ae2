"""The part of the Hugging Face Hub's API that a data set is read through, on this machine."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

COMMIT = "1" * 40


@contextmanager
def hub(repositories: Mapping[str, Mapping[str, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """(the address to give as HF_ENDPOINT, the requests so far) of a Hub that has these data sets: id -> files."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            asked.append(f"{self.command} {path}")
            for name, files in repositories.items():
                if path.startswith(f"/datasets/{name}/resolve/"):
                    file = path.removeprefix(f"/datasets/{name}/resolve/").partition("/")[2]
                    if file not in files:
                        return self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
                    return self.reply(200, files[file], {"ETag": f'"{_oid(files[file])}"', "X-Repo-Commit": COMMIT})
                if path.startswith(f"/api/datasets/{name}/tree/"):
                    folder = path.removeprefix(f"/api/datasets/{name}/tree/").partition("/")[2]
                    return self.json([_entry(p, c) for p, c in files.items() if p.startswith(folder)])
                if path.startswith(f"/api/datasets/{name}/paths-info/"):
                    wanted = json.loads(body)["paths"]
                    return self.json([_entry(p, files[p]) for p in wanted if p in files])
                if path == f"/api/datasets/{name}" or path.startswith(f"/api/datasets/{name}/revision/"):
                    return self.json({"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]})
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def json(self, value: Any) -> None:
            self.reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def reply(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
