"""Errors of the operating system that a user can act on: which they are, and the line that describes them.

A user can act on an `OSError` that names a file outside the package, for example one without permission, and on one
whose number says that the system has run out of a resource, even if it names no file. All others, such as a broken
connection or an error about a file of the package, are treated as bugs.
"""

import errno
import os
import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Error numbers of a disk that is full or read-only. The exceptions do not always name a file."""
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE)
"""Error numbers of other things that a system can lack, wherever a file is opened, read or written."""
WAYS_OUT = {
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`), or use a file system that allows larger ones",
    errno.EMFILE: "raise the limit on open files (`ulimit -n`), or use fewer workers",
    errno.ENFILE: "raise the system's limit on open files, or end other programs",
    errno.EIO: "check the disk, or the connection to it",
    errno.ESTALE: "check the connection to the disk, and run again",
    errno.ENOMEM: "free memory, or use fewer workers",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "repair the symbolic link",
    errno.EEXIST: "move away what is there, or choose another place",
    errno.ENOTDIR: "move away what is there, or choose another place",
    errno.EISDIR: "move away what is there, or choose another place",
    errno.ENOENT: "check that it exists, and that symbolic links on the way are not broken",
}
PERMITTED = "choose a place that you may write to"
ROOM = f"free space there, or {PERMITTED}"


def from_system(error: BaseException) -> OSError | None:
    """Return an exception as an `OSError` with number, reason and, where known, the file; None for other exceptions.

    safetensors raises an exception of its own, and pyarrow puts file and reason into the text.
    """
    if type(error).__name__ == "SafetensorError":
        found = re.search(r"I/O error: .* \(os error (\d+)\)(?: at path \"(.*)\")?", str(error))
        return _os_error(int(found[1]), found[2]) if found else None
    if not isinstance(error, OSError) or not isinstance(error.errno, int):
        return None
    said = error.strerror or ""
    if "Detail: [errno" in said:
        found = re.search(r"local file '(.*)'", said)
        return _os_error(error.errno, found[1] if found else None)
    return error


def _os_error(number: int, file: str | None) -> OSError:
    return OSError(number, os.strerror(number), *([file] if file else []))


def files_of(error: OSError) -> list[Path]:
    """Return the files that an exception names."""
    return [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]


def way_out(error: OSError, otherwise: str) -> str:
    """Return what a user can do about an error of the operating system.

    Args:
        error: The exception.
        otherwise: What to do if its number does not say more.
    """
    return WAYS_OUT.get(error.errno or 0, otherwise)


def system_line(error: BaseException) -> str | None:
    """Return the line that a user is shown for an error of the operating system, or None if the exception is a bug."""
    found = from_system(error)
    if found is None:
        return None
    files = files_of(found)
    if any(Path(os.path.abspath(file)).is_relative_to(PACKAGE) for file in files):
        return None
    if not files and found.errno not in (*NO_ROOM, *EXHAUSTED):
        return None
    otherwise = ROOM if found.errno in NO_ROOM else "check that you may read and write there"
    says = f"{found.strerror}; {way_out(found, otherwise)}"
    place = " -> ".join(map(str, files)) or ("the output" if found.errno in NO_ROOM else "")
    return f"{place}: {says}" if place else says
