"""Write files and folders that appear only once they are complete, each as readable as the umask says."""

import errno
import glob
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tgems.errors import UserError, reason
from tgems.system_errors import EXHAUSTED, NO_ROOM, ROOM, files_of, from_system, way_out
from tgems.takeover import refuse_if_replaced


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name. It replaces `folder` when the body ends, and is deleted if the body fails.

    The temporary name is this call's own, so that two processes never write into one folder; what a killed process left
    of the same output is deleted. Files are as readable as the umask says, whatever wrote them.

    Raises:
        UserError: The operating system refuses to write there, the disk is full, or another process writes the folder
            in the place of this one.
    """
    folder = Path(folder)
    partial = _temporary(folder)
    refuse_if_replaced(folder)
    with writing(folder, partial):
        _delete_leftovers(folder)
        partial.mkdir(parents=True)
        place = os.open(partial, os.O_RDONLY)
        try:
            yield partial
            if not (partial.exists() and os.path.samestat(os.stat(partial), os.fstat(place))):
                raise _overtaken(folder)
            mode = partial.stat().st_mode & 0o666
            for inner in partial.rglob("*"):
                if inner.is_file():
                    inner.chmod(mode)
            refuse_if_replaced(folder)
            _replace_folder(partial, folder)
        finally:
            os.close(place)
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name. It replaces `path` when the body ends, and is deleted if the body fails.

    Temporary name, leftovers, mode and errors are those of `whole_folder`.
    """
    path = Path(path)
    partial = _temporary(path)
    refuse_if_replaced(path)
    with writing(path, partial):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
        if path.exists() and not path.is_file():  # a device or pipe, which a rename would take away
            raise FileExistsError(errno.EEXIST, "it is not a regular file", str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        _delete_leftovers(path)
        partial.touch(exist_ok=False)
        mode = partial.stat().st_mode
        try:
            yield partial
            if not partial.exists():
                raise _overtaken(path)
            partial.chmod(mode)
            refuse_if_replaced(path)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _overtaken(path: Path) -> UserError:
    return UserError(f"{path}: another process has begun to write it; let that one finish")


def _temporary(path: Path) -> Path:
    """Return a new name beside a file or folder."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")


def _delete_leftovers(path: Path) -> None:
    for left in path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * 8}.partial"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _replace_folder(partial: Path, folder: Path) -> None:
    """Put a folder in the place of another; one that another process puts there meanwhile is replaced too."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    old = _temporary(folder)
    while partial.exists():
        try:
            partial.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            with suppress(FileNotFoundError):
                folder.rename(old)
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def writing(path: Path, partial: Path) -> Iterator[None]:
    """Turn errors of writing an output into a `UserError`; errors that name other files are raised unchanged.

    Args:
        path: The file or folder, for the message.
        partial: Path that it is written to before it is complete.

    Raises:
        UserError: The operating system refuses to write there, or lacks room or something else for it.
    """
    try:
        yield
    except Exception as error:
        found = from_system(error)
        if found is None:
            raise
        files, above = files_of(found), (path, *path.parents, *partial.parents)
        about_output = any(
            file in above
            or str(file).startswith(str(partial))
            or (file.parent == partial.parent and file.name.startswith(".tmp"))  # where safetensors writes first
            for file in files
        )
        if not about_output and (files or found.errno not in (*NO_ROOM, *EXHAUSTED)):
            raise
        raise UserError(f"{path}: cannot be written ({reason(found)}); {way_out(found, ROOM)}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, which appears only once it is complete."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object, sort_keys: bool = True) -> None:
    """Write indented JSON, with sorted keys unless their order matters. NaN is an error, since it is not JSON."""
    write_text(path, json.dumps(value, indent=2, sort_keys=sort_keys, allow_nan=False) + "\n")
