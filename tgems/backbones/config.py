"""What a backbone's configuration says about its architecture. Imports neither torch nor open_clip: it serves dry runs.

An entry is `{model, pretrained, source, tokenizer, exits}` (docs/adding-a-backbone.md).
"""

import difflib
import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tgems.backbones.open_clip_config import CONFIG_NAME, INERT, ModelConfig, OpenClipConfig, VisionConfig
from tgems.errors import UserError
from tgems.untrusted import file_inside, read_json_as

SUPPORTED = "open_clip's Vision Transformers and ResNets, and timm's Vision Transformers, plain and EVA"
CHECKOUT = Path(__file__).parents[2]
CHECKPOINTS = (".safetensors", ".pt", ".pth", ".bin")
PREFERRED = (
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin"),
    *("open_clip_pytorch_model.pth", "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth"),
)
DOWNLOAD_AGAIN = "download or copy the folder again"
TIMM_TRANSFORMERS = re.compile(r"(vit_(?!relpos|srelpos)|vitamin|eva|flexivit|aimv2|beit3)(?!.*rope_mixed)")


def weights_form(pretrained: str) -> str:
    """How `pretrained` names weights: `random`, `hf-hub`, `local-dir`, `file`, or else `tag`."""
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
    """Files that weights and architecture are read from; none where open_clip fetches or makes them."""
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
    """Read open_clip's model configuration of an entry.

    Args:
        backbone: Entry of the configuration, `model` and `pretrained`.

    Raises:
        UserError: There is no such architecture, folder or checkpoint, the entry names no architecture, or it names
            another than the folder holds.
    """
    pretrained, name = backbone["pretrained"], backbone.get("model")
    form = weights_form(pretrained)
    if form == "file":
        _check_file(pretrained)
    if form != "local-dir":
        if not name:
            raise UserError(
                f"backbone with pretrained {pretrained!r}: no model; name open_clip's architecture by 'model'"
            )
        if form == "file" and os.path.isfile(beside := Path(pretrained).parent / CONFIG_NAME):
            check_same(name, folder_config(beside.parent).model_cfg, pretrained)
        return architecture(name)
    folder = local_folder(pretrained)
    if not os.path.isdir(folder):
        raise UserError(f"backbone {pretrained!r}: folder {folder} does not exist in {Path.cwd()} or in {CHECKOUT}")
    held = folder_config(folder).model_cfg
    if name:
        check_same(name, held, pretrained)
    return held.model_dump(exclude_unset=True)


def folder_config(folder: Path) -> OpenClipConfig:
    """Read the configuration beside weights.

    Raises:
        UserError: It is missing, a link out of the folder, damaged, or holds a key or value that is not allowed.
    """
    return read_json_as(OpenClipConfig, file_inside(folder, CONFIG_NAME, DOWNLOAD_AGAIN), DOWNLOAD_AGAIN)


def architecture(name: str) -> dict:
    """Return the configuration of one of open_clip's own architectures, with the keys that open_clip's file has.

    Raises:
        UserError: There is none of that name; tells the nearest.
    """
    return read_architecture(name).model_dump(exclude_unset=True)


def read_architecture(name: str) -> ModelConfig:
    """Read the configuration of one of open_clip's own architectures.

    Raises:
        UserError: There is none of that name; tells the nearest.
    """
    folder = Path(find_spec("open_clip").submodule_search_locations[0]) / "model_configs"
    known = {path.stem: path for path in folder.glob("*.json")}
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"see {folder}"
        raise UserError(f"backbone model {name!r}: open_clip has no such architecture; {hint}")
    return read_json_as(ModelConfig, known[name], "install open_clip_torch again")


def vision_config(model_cfg: dict) -> dict:
    """The image tower's part of a configuration, open_clip's defaults filled in."""
    return VisionConfig().model_dump() | model_cfg["vision_cfg"]


def check_same(name: str, held: ModelConfig, pretrained: str) -> None:
    """Refuse a configuration beside weights that describes another image tower than `name`.

    Raises:
        UserError: They differ; names the first key.
    """
    own = read_architecture(name)
    sides = [
        {"embed_dim": config.embed_dim, "quick_gelu": config.quick_gelu}
        | config.vision_cfg.model_dump(exclude=INERT["vision_cfg"])
        for config in (own, held)
    ]
    for key, ours in sides[0].items():
        if ours != (theirs := sides[1][key]):
            raise UserError(
                f"backbone model {name!r} has {key} {ours!r}, but the weights {pretrained!r} are of {key} {theirs!r}; "
                "name their architecture"
            )


def family(model_cfg: dict) -> str:
    """Family of a supported image tower: `vit`, `timm` or `resnet`."""
    vision = vision_config(model_cfg)
    if vision["timm_model_name"]:
        return "timm"
    return "vit" if isinstance(vision["layers"], int) else "resnet"


def positions_at_exits(model_cfg: dict) -> tuple[int, int] | None:
    """Rows and columns of the coarsest feature map at an exit before the last; None for timm's towers.

    Args:
        model_cfg: open_clip model configuration of a supported tower.
    """
    kind, vision = family(model_cfg), vision_config(model_cfg)
    if kind == "timm":
        return None
    stride = vision["patch_size"] if kind == "vit" else 16
    (height, breadth), (tall, wide) = as_pair(vision["image_size"]), as_pair(stride)
    return height // tall, breadth // wide


def as_pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of a size that open_clip writes as one number or two."""
    return (size, size) if isinstance(size, int) else tuple(size)


def check_supported(model_cfg: dict, name: str) -> None:
    """Refuse image towers that cannot be cut into blocks; `as_tower` says the same of the tower itself.

    Args:
        model_cfg: open_clip model configuration.
        name: How the user calls it.

    Raises:
        UserError: One line that names the model and what is supported.
    """
    vision = vision_config(model_cfg)
    timm = vision["timm_model_name"]
    why = None
    if timm and not TIMM_TRANSFORMERS.match(timm):
        why = f"its image tower is timm's {timm}"
    elif timm and not vision["timm_pool"] and vision["timm_proj"] in (None, "", "none"):
        why = "its image tower does not pool"
    elif family(model_cfg) == "vit" and (isinstance(vision["attentional_pool"], str) or vision["pool_type"] == "none"):
        why = f"its image tower pools by {vision['attentional_pool'] or 'none'!r}"
    if why:
        raise UserError(f"backbone model {name!r} is not supported: {why}; supported are {SUPPORTED}")


def _check_file(pretrained: str) -> None:
    if not os.path.isfile(pretrained):
        hub = (
            f"; weights of the Hugging Face hub are written 'hf-hub:{pretrained}'" if pretrained.count("/") == 1 else ""
        )
        raise UserError(f"backbone weights {pretrained!r}: there is no such file{hub}")
    if not pretrained.endswith(CHECKPOINTS):
        raise UserError(f"backbone weights {pretrained!r}: expected a file that ends in {', '.join(CHECKPOINTS)}")
