"""Find the files that an entry of `backbones` refers to. Imports neither torch nor open_clip, for dry runs.

An entry is `{model, pretrained, source, tokenizer, exits, token_merging}` (docs/adding-a-backbone.md).
"""

import os
from pathlib import Path

from tgems.architectures.catalog import architecture, check_same
from tgems.architectures.open_clip_config import CONFIG_NAME, OpenClipConfig
from tgems.checkout import CHECKOUT
from tgems.errors import UserError
from tgems.untrusted import file_inside, read_json_as

CHECKPOINTS = (".safetensors", ".pt", ".pth", ".bin")
PREFERRED = (
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin"),
    *("open_clip_pytorch_model.pth", "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth"),
)
DOWNLOAD_AGAIN = "download or copy the folder again"


def weights_form(pretrained: str) -> str:
    """Return the form in which `pretrained` names weights: `random`, `hf-hub`, `local-dir`, `file` or `tag`."""
    scheme, colon, _ = pretrained.partition(":")
    if colon and scheme in ("hf-hub", "local-dir"):
        return scheme
    if pretrained == "random":
        return "random"
    return "file" if "/" in pretrained or os.path.isfile(pretrained) else "tag"


def local_folder(pretrained: str) -> Path | None:
    """Return the folder of `local-dir:` weights, or None for other forms.

    A relative folder that does not exist in the working directory is looked for in the checkout of tgems, so that
    shipped backbones are found from everywhere.
    """
    if weights_form(pretrained) != "local-dir":
        return None
    folder = Path(pretrained.partition(":")[2])
    shipped = CHECKOUT / folder
    return shipped if not os.path.exists(folder) and shipped.is_dir() else folder


def backbone_files(backbone: dict) -> list[str]:
    """List the files of weights and architecture; there are none if open_clip downloads or draws the weights."""
    pretrained = backbone["pretrained"]
    if weights_form(pretrained) == "file":
        return [pretrained]
    folder = local_folder(pretrained)
    if folder is None:
        return []
    return [f"{folder / CONFIG_NAME}", f"{checkpoint_in(folder)}"]


def checkpoint_in(folder: Path) -> Path:
    """Return the weights in a folder: the file that open_clip would choose, or its default name if there is none.

    open_clip does not consider `.pt` files here.
    """
    found = [path for path in sorted(folder.glob("*")) if path.suffix in (".safetensors", ".bin", ".pth")]
    named = [folder / name for name in PREFERRED if folder / name in found]
    safe = [path for path in found if path.suffix == ".safetensors"]
    return next(iter((*named, *safe, *found)), folder / PREFERRED[0])


def model_config(backbone: dict) -> dict:
    """Read the open_clip model configuration of an entry.

    Args:
        backbone: Entry of the configuration, `model` and `pretrained`.

    Raises:
        UserError: The architecture, folder or checkpoint does not exist, or the entry does not name an architecture, or
            names another one than the folder's.
    """
    pretrained, name = backbone["pretrained"], backbone.get("model")
    form = weights_form(pretrained)
    if form == "file":
        _check_file(pretrained)
    if form != "local-dir":
        if not name:
            raise UserError(f"backbone with pretrained {pretrained!r} has no model; set 'model' to an architecture")
        if form == "file" and os.path.isfile(beside := Path(pretrained).parent / CONFIG_NAME):
            check_same(name, folder_config(beside.parent).model_cfg, pretrained)
        return architecture(name)
    folder = local_folder(pretrained)
    if folder is None or not os.path.isdir(folder):
        raise UserError(f"backbone {pretrained!r}: folder {folder} does not exist in {Path.cwd()} or in {CHECKOUT}")
    config = folder_config(folder).model_cfg
    if name:
        check_same(name, config, pretrained)
    return config.model_dump(exclude_unset=True)


def token_merging_of(backbone: dict) -> int:
    """Return how many tokens each block of an entry's image encoder merges; 0 for none.

    Raises:
        UserError: The number is not an integer from 0.
    """
    merged = backbone.get("token_merging", 0)
    if not isinstance(merged, int) or isinstance(merged, bool) or merged < 0:
        name = backbone.get("model") or backbone["pretrained"]
        raise UserError(f"backbone {name!r}: token_merging is {merged!r}; use an integer, 0 to merge no tokens")
    return merged


def folder_config(folder: Path) -> OpenClipConfig:
    """Read the configuration that is stored in a folder with weights.

    Raises:
        UserError: The file is missing, damaged or a link out of the folder, or has a key or value that is not allowed.
    """
    return read_json_as(OpenClipConfig, file_inside(folder, CONFIG_NAME, DOWNLOAD_AGAIN), DOWNLOAD_AGAIN)


def _check_file(pretrained: str) -> None:
    if not os.path.isfile(pretrained):
        hub = (
            f"; for weights on the Hugging Face hub, write 'hf-hub:{pretrained}'" if pretrained.count("/") == 1 else ""
        )
        raise UserError(f"backbone weights {pretrained!r}: there is no such file{hub}")
    if not pretrained.endswith(CHECKPOINTS):
        raise UserError(f"backbone weights {pretrained!r}: expected a file that ends in {', '.join(CHECKPOINTS)}")
