"""Index a tar of samples, so that worker processes can read any of its images by offset."""

import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tgems.data.sample_members import read_captions, read_label, read_metadata
from tgems.errors import UserError, first_line, reading
from tgems.untrusted import TEXT_BYTES

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp")
AGAIN = "write or download the shard again"
DAMAGED = (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError)
"""Exceptions that tarfile raises on bytes that are not a tar."""
NEEDED = {
    "zeroshot_classification": ("cls", "json"),
    "zeroshot_retrieval": ("txt", "json"),
    "self_retrieval": ("json",),
    None: (),
}
"""Members that are read beside the image, by task; a `.json` may be absent."""
KINDS = {"cls": "class", "txt": "captions"}
NOT_FILES = {
    "a symbolic link": tarfile.TarInfo.issym,
    "a hard link": tarfile.TarInfo.islnk,
    "a device or a pipe": tarfile.TarInfo.isdev,
    "sparse": tarfile.TarInfo.issparse,
}
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
        metadata: What is kept of the `.json` member.
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


def index_shard(path: Path, task: str | None = None, one_caption: bool = False) -> list[Entry]:
    """List the samples of one shard in order. The members of a sample must be adjacent, as webdataset requires.

    A sample that lacks what the task needs has a `problem`; members that the task does not need may be damaged.

    Args:
        path: The archive.
        task: `zeroshot_classification`, for which a sample is an image and a `.cls`; `zeroshot_retrieval`, for which it
            is an image and a `.txt`; `self_retrieval` or None if an image is enough.
        one_caption: Whether a `.txt` is a single caption, instead of one caption per line.

    Raises:
        ShardError: The archive is damaged, compressed or empty, or two samples have the same key.
        UserError: The archive cannot be read.
    """
    check_end(path)
    entries: list[Entry] = []
    members: dict[str, list[tarfile.TarInfo]] = {}
    current: str | None = None
    with _open(path) as tar:
        for member in _members(path, tar):
            name = NAME.match(member.name.removeprefix("./"))
            if member.isdir() or name is None:
                continue
            key, suffix = name.groups()
            if key != current and current is not None:
                entries.append(_entry(tar, current, members, task, one_caption))
                members = {}
            current = key
            members.setdefault(suffix.lower(), []).append(member)
        if current is not None:
            entries.append(_entry(tar, current, members, task, one_caption))
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


def _entry(
    tar: tarfile.TarFile, key: str, members: dict[str, list[tarfile.TarInfo]], task: str | None, one_caption: bool
) -> Entry:
    suffix = next((s for s in IMAGE_SUFFIXES if s in members), None)
    if suffix is None:
        return Entry(key, problem=f"has no image ({', '.join(IMAGE_SUFFIXES)}), only {sorted(members)}")
    readers = {"cls": read_label, "txt": lambda data: read_captions(data, one_caption), "json": read_metadata}
    needed = NEEDED[task]
    found = {}
    try:
        key.encode()
        image = _regular(members, suffix)
        for name in needed:
            if name in members:
                found[name] = _read(tar, _regular(members, name), readers[name])
            elif name != "json":
                raise ValueError(f"has no {KINDS[name]} (.{name})")
    except UnicodeEncodeError:
        return Entry(key, problem="has a name that is not UTF-8")
    except ValueError as error:
        return Entry(key, problem=str(error))
    place = (suffix, image.offset_data, image.size)
    return Entry(key, *place, found.get("cls"), found.get("txt", ()), found.get("json", {}))


def _regular(members: dict[str, list[tarfile.TarInfo]], suffix: str) -> tarfile.TarInfo:
    """Return a member that is a regular file; webdataset reads no others."""
    member, *others = members[suffix]
    if others:
        raise ValueError(f"has more than one .{suffix}")
    if not member.isfile() or member.issparse():
        kind = next((kind for kind, test in NOT_FILES.items() if test(member)), "of an unknown type")
        raise ValueError(f"has a .{suffix} that is {kind}, not a file with content")
    return member


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo, reader: Callable[[bytes], Any]) -> Any:
    try:
        if member.size > TEXT_BYTES:
            raise ValueError(f"larger than {TEXT_BYTES >> 20} MB")
        file = tar.extractfile(member)
        assert file is not None
        return reader(file.read())
    except (ValueError, tarfile.TarError) as error:
        suffix = member.name.rpartition(".")[2]
        raise ValueError(f"has a .{suffix} that cannot be read ({first_line(error)})") from error


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
