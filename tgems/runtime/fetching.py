"""Find the folder of a T-GEM on this machine or on the Hugging Face hub. Does not import torch."""

import errno
import os
from pathlib import Path
from typing import Any

from tgems.data.network import network_errors, refuse_full_cache
from tgems.errors import UserError, first_line
from tgems.runtime.saved_config import FILES


def fetch(folder_or_hub_id: str | Path, files: tuple[str, ...] = FILES, **download: Any) -> Path:
    """Return the folder of a saved T-GEM, downloaded if nothing of that name is on this machine.

    Args:
        folder_or_hub_id: Folder, or `owner/name` on the hub.
        files: Files that are needed.
        download: Options of huggingface_hub's `snapshot_download`: `revision`, `cache_dir`, `token`, ...

    Raises:
        UserError: It is neither, or cannot be downloaded.
    """
    folder = Path(folder_or_hub_id)
    if _is_here(folder):
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(folder_or_hub_id), allow_patterns=list(files), **download))
    except network_errors() as error:
        refuse_full_cache(error)
        raise UserError(
            f"{folder_or_hub_id}: no such folder here, and it cannot be downloaded from the Hugging Face hub "
            f"({first_line(error)}); check the name, or connect to the internet"
        ) from error


def _is_here(folder: Path) -> bool:
    """Return whether anything of this name exists, even a broken link or a file without permission."""
    try:
        os.lstat(folder)
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP)
    return True
