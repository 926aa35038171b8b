"""Index a tar of samples, so that worker processes can read any of its images by offset."""

import json
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from tgems.errors import UserError, first_line, reading

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp")
AGAIN = "write or download the shard again"
DAMAGED = (tarfile.TarError, ValueError, OverflowError, EOFError)  # what tarfile raises on bytes that are not a tar
LARGEST_LABEL = 2**63 - 1
NAME = re.compile(r"^((?:.*/)?[^./]*)\.([^/]*)$")


class ShardError(UserError):
    """Raised for a split or shard that cannot be read; the message names the file and what was expected."""


@dataclass(frozen=True)
class Entry:
    """One sample of a shard, without the bytes of its image.

    Attributes:
        key: Name in the archive up to the first dot.
        suffix: Format of the image.
        start: Offset of the image in the archive.
        size: Size of the image in bytes.
        label: Class number from the `.cls` member, or None.
        captions: Captions from the `.txt` member.
        metadata: Content of the `.json` member.
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


def index_shard(path: Path, one_caption: bool = False) -> list[Entry]:
    """List the samples of one shard in order. The members of a sample must be adjacent, as webdataset requires.

    Args:
        path: The archive.
        one_caption: Whether a `.txt` is a single caption, instead of one caption per line.

    Raises:
        ShardError: The archive is damaged, compressed or empty, or two samples have the same key.
        UserError: The archive cannot be read.
    """
    check_end(path)
    entries: list[Entry] = []
    members: dict[str, tarfile.TarInfo] = {}
    current: str | None = None
    with _open(path) as tar:
        for member in _members(path, tar):
            name = NAME.match(member.name.removeprefix("./"))
            if not member.isfile() or name is None:
                continue
            key, suffix = name.groups()
            if key != current and current is not None:
                entries.append(_entry(tar, current, members, one_caption))
                members = {}
            current = key
            members[suffix.lower()] = member
        if current is not None:
            entries.append(_entry(tar, current, members, one_caption))
    if not entries:
        raise ShardError(f"{path}: the shard holds no sample")
    _check_keys(path, entries)
    return entries


def read_image(path: Path, entry: Entry) -> bytes:
    """Read the encoded image of a sample."""
    with open(path, "rb") as file:
        file.seek(entry.start)
        return file.read(entry.size)


def _open(path: Path) -> tarfile.TarFile:
    try:
        with reading(path, AGAIN):
            return tarfile.open(path, "r:")
    except DAMAGED as error:
        raise _damaged(path, error) from error


def _members(path: Path, tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    try:
        with reading(path, AGAIN):
            return tar.getmembers()
    except DAMAGED as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ShardError:
    return ShardError(f"{path}: damaged archive ({first_line(error)}); {AGAIN}")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Return the content of a regular file in a tar."""
    file = tar.extractfile(member)
    if file is None:
        raise tarfile.ReadError(f"{member.name} is not a regular file")
    return file.read()


def _entry(tar: tarfile.TarFile, key: str, members: dict[str, tarfile.TarInfo], one_caption: bool) -> Entry:
    suffix = next((s for s in IMAGE_SUFFIXES if s in members), None)
    if suffix is None:
        return Entry(key, problem=f"has no image ({', '.join(IMAGE_SUFFIXES)}), only {sorted(members)}")
    found = {}
    for name, read in (("cls", _label), ("txt", bytes.decode), ("json", json.loads)):
        try:
            found[name] = read(_content(tar, members[name])) if name in members else None
        except (ValueError, RecursionError, tarfile.TarError) as error:
            return Entry(key, problem=f"has a .{name} that cannot be read ({first_line(error)})")
    if not isinstance(found["json"] or {}, dict):
        return Entry(key, problem=f"has a .json that is not a mapping: {found['json']!r:.40}")
    text = found["txt"] or ""
    lines = (" ".join(text.split()),) if one_caption else text.splitlines()
    captions = tuple(line for line in lines if line.strip())
    image = members[suffix]
    return Entry(key, suffix, image.offset_data, image.size, found["cls"], captions, found["json"] or {})


def _label(data: bytes) -> int:
    label = int(data)
    if abs(label) > LARGEST_LABEL:
        raise ValueError("the number is too large for a class")
    return label


def _check_keys(path: Path, entries: list[Entry]) -> None:
    seen: set[str] = set()
    for entry in entries:
        if entry.key in seen:
            raise ShardError(f"{path}: key {entry.key!r} appears twice, or its members are not adjacent; {AGAIN}")
        seen.add(entry.key)


def check_end(path: Path) -> None:
    """Check that a tar is complete, that is, ends with two empty blocks.

    `tarfile` does not notice that an archive is cut off between two members.

    Raises:
        ShardError: The archive is cut off.
        UserError: The archive cannot be read.
    """
    with reading(path, AGAIN), open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1024))
        end = file.read()
    if size % 512 or end != bytes(1024):
        raise ShardError(f"{path}: damaged archive (no end mark); {AGAIN}")
