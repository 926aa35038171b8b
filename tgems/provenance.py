"""Provenance of results (digests, versions, commit), and writing files that appear only once they are complete."""

import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from tgems.errors import UserError, first_line, reading, reason

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES = ("tgems", "torch", "open_clip_torch", "clip-benchmark", "fvcore", "numpy", "pandas", "snakemake")
RUN_AGAIN = "delete it and run again"
FINISHED = "give the results folder of a finished run"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Error numbers of a disk that is full or read-only; the exceptions do not name a file."""
GIT_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
"""Environment variables that git sets in hooks, and that point it at another repository."""


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits.

    Raises:
        UserError: The file cannot be read.
    """
    with reading(path, "check that it is a file that you may read"), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(value: object) -> str:
    """Return the SHA-256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest_tensors(tensors: "Iterable[tuple[str, Tensor]]") -> str:
    """Return the SHA-256 of the names, dtypes, shapes and bytes of torch tensors, in order of their names.

    Floating-point tensors are hashed as float32, the type in which models run, so that the precision in which a file
    stores them does not matter.
    """
    import torch

    sha = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


@cache
def commit() -> str:
    """Return the commit of tgems' checkout, with `+dirty` if tracked files differ, or `unknown` without a checkout.

    An installed package may be inside another project's repository, for example in a virtual environment. The commit of
    that repository is unrelated to tgems, so the package must be at the root of the repository and tracked by it.
    """
    package = Path(__file__).resolve().parent
    environment = {name: value for name, value in os.environ.items() if name not in GIT_PLACES}
    options = {"cwd": package.parent, "env": environment, "capture_output": True, "text": True}
    try:
        found = subprocess.run(["git", "rev-parse", "--show-toplevel", "HEAD"], **options)
        top, _, head = found.stdout.strip().partition("\n")
        if found.returncode or Path(top).resolve() != package.parent:
            return "unknown"
        tracked = ["git", "ls-files", "--error-unmatch", f"{package.name}/{Path(__file__).name}"]
        if subprocess.run(tracked, **options).returncode:
            return "unknown"
        dirty = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], **options)
    except OSError:  # git is not installed, or cannot be run
        return "unknown"
    return head + ("+dirty" if dirty.stdout.strip() else "")


@cache
def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on, as far as they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name. It replaces `folder` when the body ends, and is deleted if the body fails.

    The temporary name is this call's own, so that two processes never write into one folder; what a killed process left
    of the same output is deleted. Files are as readable as the umask says, whatever wrote them.

    Raises:
        UserError: The operating system refuses to write there, or the disk is full.
    """
    folder = Path(folder)
    partial = _temporary(folder)
    with writing(folder, partial):
        _delete_leftovers(folder)
        partial.mkdir(parents=True)
        place = os.open(partial, os.O_RDONLY)
        try:
            yield partial
            if not (partial.exists() and os.path.samestat(os.stat(partial), os.fstat(place))):
                raise _overtaken(folder)
            for inner in partial.rglob("*"):
                if inner.is_file():
                    inner.chmod(partial.stat().st_mode & 0o666)
            _replace_folder(partial, folder)
        finally:
            os.close(place)
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name. It replaces `path` when the body ends, and is deleted if the body fails.

    Temporary name, leftovers and mode are those of `whole_folder`.

    Raises:
        UserError: The operating system refuses to write there, or the disk is full.
    """
    path = Path(path)
    partial = _temporary(path)
    with writing(path, partial):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        _delete_leftovers(path)
        partial.touch(exist_ok=False)
        mode = partial.stat().st_mode
        try:
            yield partial
            if not partial.exists():
                raise _overtaken(path)
            partial.chmod(mode)
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
    """Turn errors of writing an output into a `UserError`; errors about other files are raised unchanged.

    Args:
        path: The file or folder, for the message.
        partial: Path that it is written to before it is complete.

    Raises:
        UserError: The operating system refuses to write there, or the disk is full.
    """
    try:
        yield
    except OSError as error:
        places = [Path(name) for name in (error.filename, error.filename2) if isinstance(name, str)]
        above = (path, *path.parents, *partial.parents)
        about_output = any(place in above or str(place).startswith(str(partial)) for place in places)
        if not about_output and error.errno not in NO_ROOM:
            raise
        raise _not_written(path, reason(error)) from error
    except Exception as error:
        # safetensors raises one exception for everything; its message contains the operating system's
        if type(error).__name__ != "SafetensorError" or "I/O error: " not in str(error):
            raise
        raise _not_written(path, str(error).rpartition("I/O error: ")[2]) from error


def _not_written(path: Path, why: str) -> UserError:
    return UserError(f"{path}: cannot be written ({why}); free space there, or choose a place that you may write to")


def write_text(path: Path, text: str) -> None:
    """Write a text file, which appears only once it is complete."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object, sort_keys: bool = True) -> None:
    """Write indented JSON, with sorted keys unless their order matters. NaN is an error, since it is not JSON."""
    write_text(path, json.dumps(value, indent=2, sort_keys=sort_keys, allow_nan=False) + "\n")


def read_json(path: Path) -> dict:
    """Read a JSON object from a file that tgems wrote.

    Raises:
        UserError: The file is missing or damaged.
    """
    with reading(path, "create it again, or check that you may read it"):
        data = Path(path).read_bytes()
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({first_line(error)}); {RUN_AGAIN}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object; {RUN_AGAIN}")
    return value


def read_provenance(path: Path) -> dict:
    """Read `provenance.json`, which a finished run writes beside its tables.

    Returns:
        The content of the file, with the complete configuration in `config` and the digests of all inputs in
        `evaluations`.

    Raises:
        UserError: The file is missing or damaged.
    """
    path = Path(path)
    with reading(path, FINISHED):
        if not path.is_file():
            raise UserError(f"{path}: missing; {FINISHED}")
    run = read_json(path)
    for key in ("config", "evaluations"):
        if not isinstance(run.get(key), dict):
            raise UserError(f"{path}: holds no {key!r}; {FINISHED}")
    return run
