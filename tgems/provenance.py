"""Provenance of results (digests, versions, commit), and writing files that appear only once they are complete."""

import errno
import glob
import hashlib
import json
import os
import re
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
from tgems.system_errors import EXHAUSTED, NO_ROOM, ROOM, files_of, from_system, way_out
from tgems.takeover import refuse_if_replaced

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES = ("tgems", "torch", "open_clip_torch", "clip-benchmark", "fvcore", "numpy", "pandas", "snakemake")
RUN_AGAIN = "delete it and run again"
FINISHED = "give the results folder of a finished run"
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
    """Return the commit of tgems' code, or `unknown`.

    It is that of the package's checkout, with `+dirty` if tracked files differ. In a container image, which has no
    repository, it is the content of the file `COMMIT` in the package, which the build of the image writes.
    """
    return _checked_out() or _built_from() or "unknown"


def _checked_out() -> str | None:
    """Return the commit of the checkout that the package belongs to, if it belongs to one.

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
            return None
        tracked = ["git", "ls-files", "--error-unmatch", f"{package.name}/{Path(__file__).name}"]
        if subprocess.run(tracked, **options).returncode:
            return None
        dirty = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], **options)
    except OSError:  # git is not installed, or cannot be run
        return None
    return head + ("+dirty" if dirty.stdout.strip() else "")


def _built_from() -> str | None:
    """Return the commit that an image was built from, if this is an image that was given one."""
    file = Path(__file__).parent / "COMMIT"
    written = file.read_text().strip() if file.is_file() else ""
    return written if re.fullmatch(r"[0-9a-f]{40}(\+dirty)?", written) else None


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
            for inner in partial.rglob("*"):
                if inner.is_file():
                    inner.chmod(partial.stat().st_mode & 0o666)
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
