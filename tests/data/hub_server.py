"""A hub on the loopback interface: data sets and models from folders, over the URLs that huggingface_hub asks for."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
LARGE = ".tar"


@dataclass
class Hub:
    """What a test sees of the server, and how it misbehaves.

    Attributes:
        url: For HF_ENDPOINT.
        repos: Folder of every repository, by `ORG/REPO`.
        requests: (method, path, Range) of every request for a file.
        break_off: Path -> bytes after which its next download breaks off.
        damaged: Paths that arrive with their first byte changed.
        gated: Repositories that nobody may read.
    """

    url: str
    repos: dict[str, Path]
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    break_off: dict[str, int] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)

    def downloads(self) -> list[str]:
        """Paths of the files that were asked for, in order."""
        return [path for method, path, _ in self.requests if method == "GET"]


class Handler(BaseHTTPRequestHandler):
    """Requests of the API for a revision, and of files."""

    def log_message(self, *_):
        """Keep quiet."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        listing = re.fullmatch(r"/api/(?:datasets|models)/([^/]+/[^/]+)/revision/([^/]+)", path)
        tree = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path)
        file = re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        hub = self.server.hub
        if not (listing or tree or file):
            return self._refuse(404, "EntryNotFound")
        repo, revision = (listing or tree or file).groups()[:2]
        if repo in hub.gated:
            return self._refuse(403, "GatedRepo")
        if repo not in hub.repos:
            return self._refuse(401, "RepoNotFound")
        if unquote(revision) not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        if file:
            return self._send(repo, file[3])
        files = self._files(repo)
        return self._answer(json.dumps({"id": repo, "sha": COMMIT, "siblings": files} if listing else files).encode())

    def _refuse(self, status: int, code: str):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _files(self, repo: str) -> list[dict]:
        """List the files of a repository, with the keys that both listings of the API use."""
        root = self.server.hub.repos[repo]
        files = []
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            data, name = path.read_bytes(), str(path.relative_to(root))
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            one = {"rfilename": name, "blobId": blob, "type": "file", "path": name, "oid": blob, "size": len(data)}
            if path.suffix == LARGE:
                digest = hashlib.sha256(data).hexdigest()
                one["lfs"] = {"size": len(data), "sha256": digest, "oid": digest, "pointerSize": 130}
            files.append(one)
        return files

    def _send(self, repo: str, name: str):
        hub, path = self.server.hub, self.server.hub.repos[repo] / name
        asked = self.headers.get("Range")
        hub.requests.append((self.command, name, asked))
        if not path.is_file():
            return self._refuse(404, "EntryNotFound")
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        headers |= {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if name in hub.damaged:
            data = bytes([data[0] ^ 1]) + data[1:]
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self._answer(data[start:], headers, 206 if asked else 200, hub.break_off.pop(name, None))

    def _answer(self, data: bytes, headers: dict | None = None, status: int = 200, until: int | None = None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[:until])
        if until is not None:
            self.close_connection = True


@contextmanager
def use(repos: dict[str, Path], monkeypatch):
    """Run a hub and let huggingface_hub ask it, in this process."""
    from huggingface_hub import constants

    with serve(repos) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield running


@contextmanager
def serve(repos: dict[str, Path]):
    """Run a hub with these repositories until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}", repos)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
