"""A stand-in of the Hub's API: as much of it as one data set and its commits need."""

import base64
import hashlib
import json
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from tests.remote.http_server import Handler, HttpServer, serving

TOKEN = "hf_NOT-TO-BE-SEEN"


@dataclass
class DataSet:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


def entries(files: dict[str, bytes], folder: str) -> list[dict[str, Any]]:
    """What the Hub says of what lies in a folder; of Parquet as of its large files."""
    start = f"{folder}/" if folder else ""
    inside = {name.removeprefix(start): data for name, data in files.items() if name.startswith(start)}
    found: dict[str, dict[str, Any]] = {}
    for name, data in inside.items():
        first, _, rest = name.partition("/")
        if rest:
            found[first] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": start + first}
            continue
        digest = hashlib.sha256(data).hexdigest()
        found[first] = {"type": "file", "oid": digest[:40], "size": len(data), "path": start + first}
        if name.endswith(".parquet"):
            found[first]["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 130}
    return list(found.values())


class StandIn(HttpServer):
    """``sets``: data sets by their ids; ``broken``: the status that commits are answered with, if not 0;
    ``ranges``: of files that were asked for."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.sets: dict[str, DataSet] = {}
        self.broken = 0
        self.ranges: list[tuple[int, int]] = []


class _Handler(Handler):
    server: StandIn

    def get(self, body: bool) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._json(401, {"error": "Invalid user token."})
        if self.path == "/api/whoami-v2":
            return self._json(200, {"type": "user", "name": "me", "orgs": []})
        if match := re.match(r"/api/datasets/([^/]+/[^/?]+)(?:/revision/[^/?]+)?(?:\?.*)?$", self.path):
            found = self.server.sets.get(match[1])
            if found is None:
                return self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            siblings = [{"rfilename": name} for name in [".gitattributes", *found.files]]
            return self._json(200, {"id": match[1], "private": found.private, "siblings": siblings, "sha": "0" * 40})
        if match := re.match(r"/api/datasets/([^/]+/[^/]+)/tree/[^/?]+/?([^?]*)", self.path):
            return self._json(200, entries(self.server.sets[match[1]].files, match[2]))
        if match := re.match(r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.+)$", self.path):
            data, status = self.server.sets[match[1]].files[match[2]], 200
            headers = {"ETag": '"1"', "X-Repo-Commit": "0" * 40}
            if part := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
                self.server.ranges.append((int(part[1]), int(part[2]) + 1))
                whole, data, status = len(data), data[int(part[1]) : int(part[2]) + 1], 206
                headers["Content-Range"] = f"bytes {part[1]}-{int(part[1]) + len(data) - 1}/{whole}"
            return self._answer(status, data if body else b"", headers, len(data))
        self._json(404, {"error": self.path})

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/validate-yaml":
            return self._json(200, {"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            asked = json.loads(data)
            name, private = f"{asked['organization']}/{asked['name']}", asked.get("visibility") == "private"
            assert asked["type"] == "dataset"
            if name in self.server.sets:
                return self._json(409, {"error": "exists", "url": f"{self.server.address}/datasets/{name}"})
            self.server.sets[name] = DataSet(private or bool(asked.get("private")))
            return self._json(200, {"url": f"{self.server.address}/datasets/{name}"})
        name = "/".join(self.path.split("/")[3:5])
        if "/paths-info/" in self.path:
            files = self.server.sets[name].files
            asked = parse_qs(data.decode()).get("paths", [])
            beside = [entry for path in asked for entry in entries(files, path.rpartition("/")[0])]
            return self._json(200, [entry for entry in beside if entry["path"] in asked])
        if self.path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(data)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self._json(200, {"files": files})
        assert self.path.partition("?")[0].endswith("/commit/main"), self.path
        if self.server.broken:
            return self._json(self.server.broken, {"error": "No room left in this account."})
        for line in map(json.loads, data.splitlines()):
            if line["key"] == "header":
                self.server.sets[name].commits.append(line["value"]["summary"])
            else:
                self.server.sets[name].files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        url = f"{self.server.address}/datasets/{name}/commit/{'0' * 40}"
        self._json(200, {"success": True, "commitUrl": url, "commitOid": "0" * 40, "pullRequestUrl": None})

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _answer(self, status: int, data: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for name, text in {**headers, "Content-Length": str(len(data) if length is None else length)}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)


def stand_in() -> AbstractContextManager[StandIn]:
    return serving(StandIn())
