"""Index a tar of samples once, so that worker processes can read any image of it by its place. Reads tars only."""

import json
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp")
NAME = re.compile(r"^((?:.*/)?[^./]+)\.([^/]*)$")


class ShardError(ValueError):
    """A split or shard that cannot be read: the message names the file and what was expected."""


@dataclass(frozen=True)
class Entry:
    """One sample of a shard, its image still in the archive.

    Attributes:
        key: Name in the archive up to the first dot.
        suffix: Format of the image.
        start: Where its bytes begin in the archive.
        size: How many there are.
        label: Class number of the `.cls` member, or None.
        captions: One a line of the `.txt` member.
        metadata: The `.json` member.
        problem: Why the sample cannot be used, or None.
    """

    key: str
    suffix: str = ""
    start: int = 0
    size: int = 0
    label: int | None = None
    captions: tuple[str, ...] = ()
    metadata: dict = field(default_factory=dict)
    problem: str | None = None


def index_shard(path: Path) -> list[Entry]:
    """List the samples of one shard in order; a sample's members stand together, as webdataset wants them.

    Raises:
        ShardError: The archive is damaged, compressed or empty, or holds two samples of one key.
    """
    _check_end(path)
    entries: list[Entry] = []
    members: dict[str, tarfile.TarInfo] = {}
    current: str | None = None
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = NAME.match(member.name.removeprefix("./"))
                if not member.isfile() or name is None:
                    continue
                key, suffix = name.groups()
                if key != current and current is not None:
                    entries.append(_entry(tar, current, members))
                    members = {}
                current = key
                members[suffix.lower()] = member
            if current is not None:
                entries.append(_entry(tar, current, members))
    except tarfile.TarError as error:
        raise ShardError(f"{path}: damaged archive ({error}); write or download the shard again") from None
    if not entries:
        raise ShardError(f"{path}: the shard holds no sample")
    _check_keys(path, entries)
    return entries


def read_image(path: Path, entry: Entry) -> bytes:
    """The encoded image of a sample."""
    with open(path, "rb") as file:
        file.seek(entry.start)
        return file.read(entry.size)


def _entry(tar: tarfile.TarFile, key: str, members: dict[str, tarfile.TarInfo]) -> Entry:
    suffix = next((s for s in IMAGE_SUFFIXES if s in members), None)
    if suffix is None:
        return Entry(key, problem=f"has no image ({', '.join(IMAGE_SUFFIXES)}), only {sorted(members)}")
    image = members[suffix]
    parts = {name: tar.extractfile(members[name]).read() for name in ("cls", "txt", "json") if name in members}
    try:
        captions = tuple(line for line in parts.get("txt", b"").decode().splitlines() if line.strip())
        label = int(parts["cls"]) if "cls" in parts else None
        metadata = json.loads(parts["json"]) if "json" in parts else {}
    except ValueError as error:
        return Entry(key, problem=f"has a .cls, .txt or .json member that cannot be read ({error})")
    return Entry(key, suffix, image.offset_data, image.size, label, captions, metadata)


def _check_keys(path: Path, entries: list[Entry]) -> None:
    seen: set[str] = set()
    for entry in entries:
        if entry.key in seen:
            raise ShardError(f"{path}: key {entry.key!r} stands twice, or its members do not stand together")
        seen.add(entry.key)


def _check_end(path: Path) -> None:
    """A whole archive ends with two empty blocks; `tarfile` takes a cut between members for the end."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1024))
        if size % 512 or file.read() != bytes(1024):
            raise ShardError(f"{path}: damaged archive (no end mark); write or download the shard again")
