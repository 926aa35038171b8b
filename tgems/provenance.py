"""Where a result comes from: digests, versions, commit; and writing files whole or not at all."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
"""Errors of a disk that is full or read-only; they carry no name of a file."""
GIT_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
"""Environment variables that git sets within hooks, and that make it look at another repository."""


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal.

    Raises:
        UserError: It cannot be read.
    """
    with reading(path, "check that it is a file that you may read"), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(value: object) -> str:
    """Return the SHA-256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest_tensors(tensors: "Iterable[tuple[str, Tensor]]") -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes of torch tensors, in name order.

    Floating-point tensors are hashed as float32, in which models run, so that the precision of a file does not matter.
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
    """Return the commit of tgems' own checkout, with `+dirty` if tracked files differ, or `unknown` without a checkout.

    An installed package may be within another project's repository, as in a virtual environment. The commit of that
    repository is unrelated to tgems, so the repository must begin beside the package and track its files.
    """
    package = Path(__file__).resolve().parent
    place = {name: value for name, value in os.environ.items() if name not in GIT_PLACES}
    run = {"cwd": package.parent, "env": place, "capture_output": True, "text": True}
    try:
        found = subprocess.run(["git", "rev-parse", "--show-toplevel", "HEAD"], **run)
        top, _, head = found.stdout.strip().partition("\n")
        if found.returncode or Path(top).resolve() != package.parent:
            return "unknown"
        own = ["git", "ls-files", "--error-unmatch", f"{package.name}/{Path(__file__).name}"]
        if subprocess.run(own, **run).returncode:
            return "unknown"
        dirty = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], **run)
    except OSError:  # git is not installed, or cannot be run
        return "unknown"
    return head + ("+dirty" if dirty.stdout.strip() else "")


@cache
def versions() -> dict[str, str]:
    """Return the versions of the packages that a result depends on; absent ones are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name: it replaces `folder` when the body ends, and is deleted if the body fails.

    Raises:
        UserError: The operating system refuses to write there, or the disk is full.
    """
    folder = Path(folder)
    partial = folder.with_name(folder.name + ".partial")
    with writing(folder, partial):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name: it replaces `path` when the body ends, and is deleted if the body fails.

    Raises:
        UserError: The operating system refuses to write there, or the disk is full.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with writing(path, partial):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # a link with this name would redirect what is written
        partial.touch(exist_ok=False)
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, partial: Path) -> Iterator[None]:
    """Turn the errors of writing an output into one line; errors about other files pass.

    Args:
        path: The file or folder, for the message.
        partial: Where it is written before it is whole.

    Raises:
        UserError: The operating system refuses to write there, or the disk is full.
    """
    try:
        yield
    except OSError as error:
        places = [Path(name) for name in (error.filename, error.filename2) if isinstance(name, str)]
        above = (path, *path.parents, *partial.parents)
        ours = any(place in above or str(place).startswith(str(partial)) for place in places)
        if not ours and error.errno not in NO_ROOM:
            raise
        raise _not_written(path, reason(error)) from error
    except Exception as error:
        # safetensors has one exception for everything, whose text holds the operating system's
        if type(error).__name__ != "SafetensorError" or "I/O error: " not in str(error):
            raise
        raise _not_written(path, str(error).rpartition("I/O error: ")[2]) from error


def _not_written(path: Path, why: str) -> UserError:
    return UserError(f"{path}: cannot be written ({why}); free space there, or choose a place that you may write to")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object, sort_keys: bool = True) -> None:
    """Write JSON, sorted unless order matters, and indented; NaN is an error since it is not JSON."""
    write_text(path, json.dumps(value, indent=2, sort_keys=sort_keys, allow_nan=False) + "\n")


def read_json(path: Path) -> dict:
    """Read a JSON file that tgems wrote, whose top level is an object.

    Raises:
        UserError: The file is missing or damaged.
    """
    with reading(path, "make it anew, or check that you may read it"):
        data = Path(path).read_bytes()
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({first_line(error)}); {RUN_AGAIN}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object; {RUN_AGAIN}")
    return value


def read_provenance(path: Path) -> dict:
    """Read `provenance.json`, in which a finished run recorded beside its tables how it came about.

    Returns:
        Among others `config`, the complete configuration, and `evaluations`, digests of what each table depends on.

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
