"""A small file system that a test can fill, free, and make read-only. Linux, as root."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

BLOCK = 4096


@dataclass(frozen=True)
class SmallDisk:
    """A separate file system, mounted at `folder`."""

    folder: Path

    def fill(self, leave: int = 0) -> None:
        """Fill the disk except for about `leave` bytes."""
        room = os.statvfs(self.folder)
        blocks = (room.f_bavail * room.f_bsize - leave) // BLOCK
        with open(self._filler(), "ab", buffering=0) as file:
            for _ in range(blocks):
                file.write(bytes(BLOCK))

    def free(self) -> None:
        """Free the space that `fill` has taken."""
        self._filler().unlink()

    def files(self) -> set[str]:
        """Return the names of all files and folders on the disk, without the file that fills it."""
        return {str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p != self._filler()}

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Make the disk read-only while the body runs; permissions alone would not stop root."""
        _run("mount", "-o", "remount,ro", str(self.folder))
        try:
            yield
        finally:
            _run("mount", "-o", "remount,rw", str(self.folder))

    def _filler(self) -> Path:
        return self.folder / "filler"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[SmallDisk]:
    """Mount a small disk on a new folder while the body runs, or skip the test where that is not possible."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs Linux and root")
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"this system does not let root mount a tmpfs ({tried.stderr.strip()})")
    try:
        yield SmallDisk(folder)
    finally:
        if subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode:
            _run("umount", "--lazy", str(folder))  # a failed test's exception may keep a file open
        folder.rmdir()
