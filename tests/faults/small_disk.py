"""A disk of a few megabytes that a test can fill, so that writing fails as on a full disk."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE = 4096


class SmallDisk:
    """A mounted tmpfs.

    Attributes:
        path: Where it is mounted.
    """

    def __init__(self, path: Path):
        self.path = path
        self._filler = path / "filler"

    def free(self) -> int:
        """Return how many bytes are free."""
        state = os.statvfs(self.path)
        return state.f_bavail * state.f_frsize

    def leave(self, free: int) -> None:
        """Fill the disk until only some bytes are free."""
        self.empty()
        with open(self._filler, "wb") as file:
            if self.free() > free:
                os.posix_fallocate(file.fileno(), 0, self.free() - free)

    def empty(self) -> None:
        """Free the space that `leave` took."""
        self._filler.unlink(missing_ok=True)

    def content(self) -> dict[str, bytes | None]:
        """Return all files with their content, and folders with None, except the file that fills the disk."""
        found = [path for path in self.path.rglob("*") if path != self._filler]
        return {str(path.relative_to(self.path)): path.read_bytes() if path.is_file() else None for path in found}

    def clear(self) -> None:
        """Delete everything."""
        for path in self.path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def resize(self, size: str) -> None:
        """Change the size of the disk."""
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], check=True, capture_output=True)


@contextmanager
def mounted(path: Path, size: str) -> Iterator[SmallDisk]:
    """Mount a disk, and unmount it in any case.

    Raises:
        PermissionError: This user may not mount.
    """
    path.mkdir(parents=True)
    run = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise PermissionError(run.stderr.strip())
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True, capture_output=True)
