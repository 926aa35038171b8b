"""A hub on the loopback interface, which serves data sets and models from folders over huggingface_hub's URLs."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
LARGE = (".tar", ".safetensors")
CHUNK = 1 << 20
LISTING = re.compile(r"/api/(?:datasets|models)/([^/]+/[^/]+)/revision/([^/]+)")
TREE = re.compile(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)")
FILE = re.compile(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Hub:
    """Repositories of a running server.

    Attributes:
        url: Address, for HF_ENDPOINT.
        repos: Folder of the branch `main` of every repository, by `ORG/REPO`.
        commits: Commit of `main`, where it is not `COMMIT`.
        past: Folders of earlier commits, by repository and commit.
        requests: (method, path, Range) of every request for a file.
    """

    url: str
    repos: dict[str, Path]
    commits: dict[str, str] = field(default_factory=dict)
    past: dict[tuple[str, str], Path] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def downloads(self) -> list[str]:
        """Return the paths of the requested files, in order."""
        return [path for method, path, _ in self.requests if method == "GET"]

    def commit(self, repo: str) -> str:
        """Return the commit of `main`."""
        return self.commits.get(repo, COMMIT)

    def publish(self, repo: str, folder: Path, commit: str) -> None:
        """Move `main` on to another commit; earlier ones can still be read."""
        self.past[repo, self.commit(repo)] = self.repos[repo]
        self.repos[repo], self.commits[repo] = folder, commit

    def folder(self, repo: str, revision: str) -> tuple[str, Path] | None:
        """Return commit and folder of a revision; None if there is no such revision."""
        if revision in ("main", self.commit(repo)):
            return self.commit(repo), self.repos[repo]
        folder = self.past.get((repo, revision))
        return (revision, folder) if folder else None


@cache
def digests(path: Path, size: int, _mtime_ns: int) -> tuple[str, str]:
    """Return SHA-256 and git blob id of a file of a certain size and time of modification."""
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            sha256.update(chunk)
            blob.update(chunk)
    return sha256.hexdigest(), blob.hexdigest()


def digests_of(path: Path) -> tuple[str, str]:
    """Return SHA-256 and git blob id of a file, computed once."""
    stat = path.stat()
    return digests(path, stat.st_size, stat.st_mtime_ns)


class Handler(BaseHTTPRequestHandler):
    """Requests of the API for a revision, and of files."""

    def log_message(self, *_) -> None:
        """Log nothing."""

    def do_HEAD(self) -> None:
        """Answer without the content."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer with a listing or a file."""
        path, hub = unquote(urlsplit(self.path).path), self.hub
        listing, tree, file = (pattern.fullmatch(path) for pattern in (LISTING, TREE, FILE))
        match = listing or tree or file
        if match is None:
            return self.refuse(404, {"X-Error-Code": "EntryNotFound"})
        repo, revision = match.groups()[:2]
        if refused := self.refusal(repo, file[3] if file else None):
            return self.refuse(*refused)
        if repo not in hub.repos:
            return self.refuse(401, {"X-Error-Code": "RepoNotFound"})
        found = hub.folder(repo, unquote(revision))
        if found is None:
            return self.refuse(404, {"X-Error-Code": "RevisionNotFound"})
        commit, folder = found
        if file:
            return self.send_file(folder, file[3], commit)
        files = describe(folder)
        data = json.dumps({"id": repo, "sha": commit, "siblings": files} if listing else files).encode()
        self.answer(200, {}, len(data))
        if self.command == "GET":
            self.wfile.write(data)

    @property
    def hub(self) -> Hub:
        """The hub that is served."""
        return self.server.hub  # type: ignore[attr-defined]

    def refusal(self, repo: str, file: str | None) -> tuple[int, dict[str, str]] | None:
        """Return status and headers of a refused request, or None to answer; `file` is None for a listing."""

    def refuse(self, status: int, headers: dict[str, str]) -> None:
        """Answer with a status and no content."""
        self.answer(status, headers, 0)

    def send_file(self, folder: Path, name: str, commit: str) -> None:
        """Answer with a file, or with the requested part of it."""
        path, asked = folder / name, self.headers.get("Range")
        self.hub.requests.append((self.command, name, asked))
        if not path.is_file():
            return self.refuse(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        size, (sha256, blob) = path.stat().st_size, digests_of(path)
        etag = sha256 if path.suffix in LARGE else blob
        headers = {"ETag": f'"{etag}"', "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(size)}
        headers |= {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        ranged = re.fullmatch(r"bytes=(\d+)-", asked or "")
        start = int(ranged[1]) if ranged else 0
        if ranged:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        self.answer(206 if ranged else 200, headers, size - start)
        if self.command == "GET":
            with open(path, "rb") as file, suppress(ConnectionError):  # the client has closed the connection
                file.seek(start)
                self.send_content(name, file, start)

    def send_content(self, _name: str, file: BinaryIO, _start: int) -> None:
        """Send the rest of an open file, which is at byte `_start`."""
        while chunk := file.read(CHUNK):
            self.wfile.write(chunk)

    def answer(self, status: int, headers: dict[str, str], length: int) -> None:
        """Send a status and headers."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


def describe(root: Path) -> list[dict]:
    """List the files of a repository, with the keys that both listings of the API use."""
    files = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        (sha256, blob), size, name = digests_of(path), path.stat().st_size, str(path.relative_to(root))
        one = {"rfilename": name, "blobId": blob, "type": "file", "path": name, "oid": blob, "size": size}
        if path.suffix in LARGE:
            one["lfs"] = {"size": size, "sha256": sha256, "oid": sha256, "pointerSize": 130}
        files.append(one)
    return files


@contextmanager
def serve(repos: dict[str, Path], handler: type[Handler] = Handler, hub: type[Hub] = Hub) -> Iterator[Hub]:
    """Run a hub with these repositories until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    running = hub(f"http://127.0.0.1:{server.server_port}", repos)
    server.hub = running  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
