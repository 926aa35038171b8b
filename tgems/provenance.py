"""Provenance of results: digests, versions, the commit, and the record of a finished run."""

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from tgems.errors import UserError, first_line, reading

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES = ("tgems", "torch", "open_clip_torch", "clip-benchmark", "fvcore", "numpy", "pandas", "snakemake")
RUN_AGAIN = "delete it and run again"
FINISHED = "give the results folder of a finished run"
GIT_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
"""Environment variables that git sets in hooks, and by which it finds another repository than that of the folder."""


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

    In a checkout it is the checked-out commit, with `+dirty` if tracked files differ from it. A container image has no
    repository: there it is the content of the package's file `COMMIT`, which the build of the image writes.
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
