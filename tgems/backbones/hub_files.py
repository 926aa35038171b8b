"""Download the files of a backbone from the Hugging Face hub, and compare them with the hub's digests.

Files are kept in the cache of huggingface_hub (HF_HOME), one copy for all runs of a user.
"""

import os
import re
from pathlib import Path

from tgems.data.hub import Remote
from tgems.errors import UserError

WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Names under which open_clip looks for weights, the preferred one first."""


def hub_file(repository: str, filename: str | None = None) -> Path:
    """Return a file of a model repository, downloaded unless it is in the cache.

    open_clip's `download_pretrained_from_hf` chooses the same file. But it takes every failure to download safetensors,
    such as one of the network or the disk, to mean that there are none, and then reports that the next choice does not
    exist.

    Args:
        repository: `ORG/REPO`.
        filename: Name of the file. Without it, or if it ends in `.bin` or `.pth`, safetensors are preferred.

    Raises:
        UserError: There is no such file, or it differs from the digest that the hub states and was deleted.
        Exception: One of `tgems.data.network.network_errors`.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    names = WEIGHTS if filename is None else _choices(filename)
    for name in names:
        try:
            return _checked(Path(hf_hub_download(repository, name)), repository)
        except RemoteEntryNotFoundError:
            pass
    raise UserError(f"the repository {repository} has no {' or '.join(names)}; check its name")


def _choices(filename: str) -> tuple[str, ...]:
    """Return the file names to try for a name, in order."""
    if filename == WEIGHTS[1]:
        return WEIGHTS
    stem, dot, ending = filename.rpartition(".")
    return (f"{stem}.safetensors", filename) if dot and ending in ("bin", "pth") else (filename,)


def _checked(path: Path, repository: str) -> Path:
    """Compare a file of the cache with the hub's digest, which is the name of the blob that the file links to.

    On a file system without links, the cache has no such names, and files are not compared.
    """
    blob = path.parent / os.readlink(path) if path.is_symlink() else path
    found = re.fullmatch(r"([0-9a-f]{64})|([0-9a-f]{40})", blob.name)
    if found and not Remote(blob.stat().st_size, found[1], found[2]).matches(blob):
        blob.unlink()
        path.unlink()
        raise UserError(f"{path.name} of {repository} arrived damaged; run again")
    return path
