"""A data-set hub on this machine: as much of the real one's HTTP interface as a download uses."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


@contextmanager
def serve(folder: Path, repository: str, *, gated: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Serve FOLDER/BRANCH/... as the repository's branches; yield the address and a log.

    A gated repository shows what it has and gives none of it away.
    """
    log: list[str] = []

    class Handler(_Handler):
        root = folder
        name = repository
        seen = log
        closed = gated

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", log
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path
    name: str
    seen: list[str]
    closed: bool

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        self.seen.append(format % args)

    def _answer(self, *, body: bool) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        posted = self.rfile.read(size).decode()
        path = unquote(urlsplit(self.path).path)
        api, files = f"/api/datasets/{self.name}", f"/datasets/{self.name}/resolve/"
        if path.startswith(files) and self.closed:
            self._send(401, b"", {"X-Error-Code": "GatedRepo"}, body)
        elif path.startswith(files):
            revision, _, file = path.removeprefix(files).partition("/")
            self._file(revision, file, body)
        elif path == api:
            self._info("main", body)
        elif path.startswith(f"{api}/revision/"):
            self._info(path.removeprefix(f"{api}/revision/"), body)
        elif path.startswith(f"{api}/tree/"):
            revision, _, under = path.removeprefix(f"{api}/tree/").partition("/")
            self._tree(revision, under, body)
        elif path.startswith(f"{api}/paths-info/"):
            asked = json.loads(posted)["paths"] if posted[:1] == "{" else parse_qs(posted)["paths"]
            self._paths(path.removeprefix(f"{api}/paths-info/"), asked, body)
        else:
            self._missing("RepoNotFound", body)

    def _branch(self, revision: str) -> tuple[Path, str] | None:
        for branch, commit in COMMITS.items():
            if revision in (branch, commit) and (self.root / branch).is_dir():
                return self.root / branch, commit
        return None

    def _info(self, revision: str, body: bool) -> None:
        found = self._branch(revision)
        if found is None:
            self._missing("RevisionNotFound", body)
            return
        names = [{"rfilename": str(item)} for item in _files(found[0])]
        self._json({"id": self.name, "sha": found[1], "siblings": names, "tags": []}, body)

    def _tree(self, revision: str, under: str, body: bool) -> None:
        found = self._branch(revision)
        if found is None:
            self._missing("RevisionNotFound", body)
            return
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0] == "true"
        folder = found[0] / under
        entries = sorted(folder.rglob("*") if recursive else folder.glob("*"))
        self._json([_entry(item, found[0]) for item in entries], body)

    def _paths(self, revision: str, asked: list[str], body: bool) -> None:
        found = self._branch(revision)
        if found is None:
            self._missing("RevisionNotFound", body)
            return
        present = [found[0] / name for name in asked if (found[0] / name).exists()]
        self._json([_entry(item, found[0]) for item in present], body)

    def _file(self, revision: str, name: str, body: bool) -> None:
        found = self._branch(revision)
        if found is None:
            self._missing("RevisionNotFound", body)
        elif not (found[0] / name).is_file():
            self._missing("EntryNotFound", body)
        else:
            data = (found[0] / name).read_bytes()
            self._send(200, data, {"ETag": f'"{_hash(data)}"', "X-Repo-Commit": found[1]}, body)

    def _json(self, value: object, body: bool) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, body)

    def _missing(self, kind: str, body: bool) -> None:
        self._send(404, b"", {"X-Error-Code": kind, "X-Error-Message": kind}, body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


def _files(folder: Path) -> list[Path]:
    return sorted(item.relative_to(folder) for item in folder.rglob("*") if item.is_file())


def _entry(item: Path, root: Path) -> dict[str, object]:
    path = str(item.relative_to(root))
    if item.is_dir():
        return {"type": "directory", "path": path, "oid": _hash(path.encode()), "size": 0}
    data = item.read_bytes()
    return {"type": "file", "path": path, "oid": _hash(data), "size": len(data)}


def _hash(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
