"""A T-GEM by folder or by its id on the Hugging Face hub: fetch, load, push."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from tgems.data.network import network_errors
from tgems.errors import UserError, first_line
from tgems.runtime.model import EarlyExitCLIP
from tgems.runtime.saved_config import FILES, read_config

OWN_OPTIONS = ("backbone", "tokenizer", "calibration", "max_rate", "chunk")


def fetch(folder_or_hub_id: str | Path, files: tuple[str, ...] = FILES, **download) -> Path:
    """Folder of a saved T-GEM, downloaded where it is none of this machine's.

    Args:
        folder_or_hub_id: Folder, or `owner/name` on the hub.
        files: What is needed of it.
        download: Of huggingface_hub's `snapshot_download`: `revision`, `cache_dir`, `token`, `local_files_only`, ...

    Raises:
        UserError: It is neither, or cannot be downloaded.
    """
    folder = Path(folder_or_hub_id)
    if os.path.isdir(folder):
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(folder_or_hub_id), allow_patterns=list(files), **download))
    except network_errors() as error:
        raise UserError(
            f"{folder_or_hub_id}: no such folder here, and not to be had from the Hugging Face hub "
            f"({first_line(error)}); "
            "check the name, or connect to the internet"
        ) from error


def load_anywhere(folder_or_hub_id: str | Path, device: str = "cpu", **options) -> EarlyExitCLIP:
    """Load a saved T-GEM and its backbone.

    Args:
        folder_or_hub_id: Folder, or `owner/name` on the hub.
        device: Where to run.
        options: `backbone` and `tokenizer` (see `tgems.runtime.folder.load`), `calibration`, `max_rate` and `chunk`
            (see `EarlyExitCLIP`); all others are of `fetch`.

    Raises:
        UserError: It cannot be fetched or loaded, or there is no such device.
    """
    from tgems.runtime.folder import load

    own = {k: options.pop(k) for k in OWN_OPTIONS if k in options}
    check_device(device)
    return load(fetch(folder_or_hub_id, **options), **own).to(device)


def push(model: EarlyExitCLIP, repo_id: str, private: bool | None = None, token: str | None = None, **options) -> str:
    """Upload a T-GEM's three files to the hub; the repository is created where there is none.

    Args:
        model: T-GEM.
        repo_id: `owner/name`.
        private: Whether a new repository is.
        token: Of the hub; None for the one that `hf auth login` keeps.
        options: Of `HfApi.upload_folder`: `commit_message`, `revision`, `create_pr`.

    Returns:
        Address of the commit.

    Raises:
        UserError: The hub cannot be reached, or refuses the upload.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder))
        try:
            repo_id = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=list(FILES), **options))
        except network_errors() as error:
            raise UserError(
                f"{repo_id}: cannot be uploaded to the Hugging Face hub ({first_line(error)}); check the name and the "
                "connection, and sign in with `hf auth login`"
            ) from error


def load_tokenizer(folder_or_hub_id: str | Path, tokenizer: str | None = None, **download):
    """Tokenizer of a T-GEM's backbone; loads no weights.

    Args:
        folder_or_hub_id: Folder, or `owner/name` on the hub.
        tokenizer: See `tgems.runtime.folder.load`.
        download: See `fetch`.

    Raises:
        UserError: See `fetch` and `read_config`; or the backbone has another architecture than the T-GEM was made for.
    """
    from tgems.backbones.source import read_config as read_backbone_config
    from tgems.backbones.tokenizer import build_tokenizer
    from tgems.runtime.folder import backbone_entry, check_architecture

    folder = fetch(folder_or_hub_id, **download)
    config = read_config(folder)
    entry = backbone_entry(folder, config, None, tokenizer)
    found = read_backbone_config(entry).model_cfg
    check_architecture(folder, config, entry, found)
    return build_tokenizer(found.text_cfg, entry.get("tokenizer"))


def check_device(device: str) -> None:
    """Refuse a device that torch does not know or have.

    Raises:
        UserError: Names it.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {device!r} cannot be used ({first_line(error)}); use cpu, or cuda where there is a GPU"
        ) from error
