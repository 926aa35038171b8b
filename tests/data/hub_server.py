"""A hub on the loopback interface that can misbehave."""

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tgems.demo import hub_server
from tgems.demo.hub_server import COMMIT, Handler

__all__ = ["COMMIT", "Hub", "serve", "use"]


@dataclass
class Hub(hub_server.Hub):
    """The state of the server that a test can read, and the ways in which it misbehaves.

    Attributes:
        break_off: Path -> bytes after which each of its next downloads breaks off.
        damaged: Paths that arrive with their first byte changed.
        gated: Repositories that nobody may read.
        gated_files: Repositories whose files nobody may read, although they are listed, as on the hub.
        busy: Seconds after which to try again, for each of the next requests, all of which are refused.
        busy_files: The same for requests of files.
    """

    break_off: dict[str, list[int]] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    gated_files: set[str] = field(default_factory=set)
    busy: list[int] = field(default_factory=list)
    busy_files: list[int] = field(default_factory=list)


class Misbehaving(Handler):
    """Does what a test tells the hub to do."""

    def refusal(self, repo, file):
        if self.hub.busy:
            return 429, {"Retry-After": str(self.hub.busy.pop(0))}
        if self.hub.busy_files and file:
            return 429, {"Retry-After": str(self.hub.busy_files.pop(0))}
        if repo in self.hub.gated:
            return 403, {"X-Error-Code": "GatedRepo"}
        if repo in self.hub.gated_files and file:
            return 401, {"X-Error-Code": "GatedRepo"}
        return None

    def send_content(self, name, file, start):
        data = file.read()
        if name in self.hub.damaged and start == 0:
            data = bytes([data[0] ^ 1]) + data[1:]
        limits = self.hub.break_off.get(name)
        self.wfile.write(data[: limits.pop(0)] if limits else data)
        if limits is not None:
            self.close_connection = True


@contextmanager
def use(repos: dict[str, Path], monkeypatch):
    """Run a hub, and let huggingface_hub in this process use it."""
    from huggingface_hub import constants

    with serve(repos) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield running


def serve(repos: dict[str, Path]):
    """Run a hub with these repositories until the block ends."""
    return hub_server.serve(repos, Misbehaving, Hub)
