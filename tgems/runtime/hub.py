"""Upload a T-GEM to the Hugging Face hub, and load the tokenizer of one."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tgems.backbones.load import Backbone
from tgems.backbones.references import weights_form
from tgems.data.network import network_errors
from tgems.errors import UserError, first_line
from tgems.runtime.early_exit import EarlyExit
from tgems.runtime.fetching import fetch
from tgems.runtime.folder import backbone_entry, check_architecture, save
from tgems.runtime.saved_config import FILES, read_config


def push(
    backbone: Backbone,
    early_exit: EarlyExit,
    repo_id: str,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Upload a T-GEM's three files to the hub; the repository is created if it does not exist.

    Args:
        backbone: Its backbone, which must have weights that others can load.
        early_exit: The T-GEM.
        repo_id: `owner/name`.
        private: Whether a new repository is private.
        token: Token of the hub; None for the one that `hf auth login` keeps.
        commit_message: Message of the commit.

    Returns:
        Address of the commit.

    Raises:
        UserError: The backbone's weights are only on this machine, the hub cannot be reached, or it refuses the upload.
    """
    from huggingface_hub import HfApi

    pretrained = backbone.entry["pretrained"]
    if weights_form(pretrained) in ("local-dir", "file"):
        raise UserError(
            f"{repo_id}: its backbone is {pretrained!r}, which nobody else could load; use weights that have a tag of "
            "open_clip or lie on the hub (hf-hub:ORG/REPO), or share the folder that save_pretrained writes"
        )
    api = HfApi(token=token)
    with TemporaryDirectory() as folder:
        save(backbone, early_exit, Path(folder))
        try:
            repo_id = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
            return str(
                api.upload_folder(
                    repo_id=repo_id, folder_path=folder, allow_patterns=list(FILES), commit_message=commit_message
                )
            )
        except network_errors() as error:
            raise UserError(
                f"{repo_id}: cannot be uploaded to the Hugging Face hub ({first_line(error)}); check the name and the "
                "connection, and sign in with `hf auth login`"
            ) from error


def load_tokenizer(
    folder_or_hub_id: str | Path, tokenizer: str | None = None, backbone: str | None = None, **download: Any
):
    """Load the tokenizer of a T-GEM's backbone; reads no weights.

    Args:
        folder_or_hub_id: Folder, or `owner/name` on the hub.
        tokenizer: See `tgems.runtime.folder.load`.
        backbone: See `tgems.runtime.folder.load`.
        download: See `fetch`.

    Raises:
        UserError: See `fetch` and `read_config`; or the backbone has another architecture than the T-GEM was made for.
    """
    from tgems.backbones.source import read_config as read_backbone_config
    from tgems.backbones.tokenizer import build_tokenizer

    folder = fetch(folder_or_hub_id, **download)
    config = read_config(folder)
    entry = backbone_entry(folder, config, backbone, tokenizer)
    found = read_backbone_config(entry).model_cfg
    check_architecture(folder, config, entry, found)
    return build_tokenizer(found.text_cfg, entry.get("tokenizer"))


def require_device(device: str) -> None:
    """Refuse a device that torch does not know or have, or that holds no data.

    Raises:
        UserError: There is no such device.
    """
    import torch

    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {device!r} cannot be used ({first_line(error)}); use cpu, or cuda if there is a GPU"
        ) from error
