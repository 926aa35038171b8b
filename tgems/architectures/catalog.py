"""Look up open_clip's architectures by name and inspect their configurations. Imports neither torch nor open_clip."""

import difflib
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tgems.architectures.open_clip_config import INERT, ModelConfig, TextConfig, VisionConfig
from tgems.errors import UserError
from tgems.untrusted import read_json_as

SUPPORTED = "open_clip's Vision Transformers and ResNets, and timm's Vision Transformers, plain and EVA"
MERGING = (
    "open_clip's Vision Transformers with default blocks, and timm's plain ones (SigLIP, MobileCLIP-B, ViTamin), but "
    "not EVA and PE, which turn keys by position"
)
TIMM_TRANSFORMERS = re.compile(r"(vit_(?!relpos|srelpos)|vitamin|eva|flexivit|aimv2|beit3)(?!.*rope_mixed)")
TIMM_EVA = re.compile(r"eva(02|_giant)|vit_(pe_|.*(rope|dinov3|sapiens2|lingbot))")
CUSTOM_BLOCKS = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")


def architecture(name: str) -> dict:
    """Return the configuration of an open_clip architecture, with only the keys that open_clip's file sets.

    Raises:
        UserError: open_clip has no architecture of that name; the message suggests the nearest one.
    """
    return read_architecture(name).model_dump(exclude_unset=True)


def read_architecture(name: str) -> ModelConfig:
    """Read and validate the configuration of an open_clip architecture.

    Raises:
        UserError: open_clip has no architecture of that name; the message suggests the nearest one.
    """
    installed = find_spec("open_clip")
    if installed is None or not installed.submodule_search_locations:
        raise UserError("open_clip is not installed; install open_clip_torch")
    folder = Path(installed.submodule_search_locations[0]) / "model_configs"
    known = {path.stem: path for path in folder.glob("*.json")}
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"see {folder}"
        raise UserError(f"backbone model {name!r}: open_clip has no such architecture; {hint}")
    return read_json_as(ModelConfig, known[name], "install open_clip_torch again")


def vision_config(model_cfg: dict) -> dict:
    """Return the image tower's part of a configuration, with open_clip's defaults filled in."""
    return VisionConfig().model_dump() | model_cfg["vision_cfg"]


def text_config(model_cfg: dict) -> dict:
    """Return the text tower's part of a configuration, with open_clip's defaults filled in."""
    return TextConfig().model_dump() | (model_cfg.get("text_cfg") or {})


def check_same(name: str, config: ModelConfig, pretrained: str) -> None:
    """Check that a configuration stored beside weights describes the image tower of an open_clip architecture.

    Args:
        name: Name of the architecture.
        config: The configuration stored beside the weights.
        pretrained: Name of the weights, for the message.

    Raises:
        UserError: The image towers differ; the message names the first key in which they do.
    """
    named, stored = (
        {"embed_dim": one.embed_dim, "quick_gelu": one.quick_gelu}
        | one.vision_cfg.model_dump(exclude=INERT["vision_cfg"])
        for one in (read_architecture(name), config)
    )
    for key, value in named.items():
        if value != stored[key]:
            raise UserError(
                f"backbone model {name!r} has {key} {value!r}, but the weights {pretrained!r} have {key} "
                f"{stored[key]!r}; set 'model' to the architecture of the weights"
            )


def family(model_cfg: dict) -> str:
    """Return the family of a supported image tower: `vit`, `timm` or `resnet`."""
    vision = vision_config(model_cfg)
    if vision["timm_model_name"]:
        return "timm"
    return "vit" if isinstance(vision["layers"], int) else "resnet"


def positions_at_exits(model_cfg: dict) -> tuple[int, int] | None:
    """Return the rows and columns of the coarsest feature map at any exit but the last; None for timm's towers.

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
    """Return the height and width of a size that open_clip writes as one number or as two."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def check_supported(model_cfg: dict, name: str) -> None:
    """Refuse image towers that cannot be cut into blocks; `as_tower` checks the same on the tower itself.

    Args:
        model_cfg: open_clip model configuration.
        name: The user's name for the model, for the message.

    Raises:
        UserError: The image tower is not supported; the message says why, and what is.
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


def check_merging(model_cfg: dict, token_merging: int, name: str) -> None:
    """Refuse token merging where it is not supported; `with_merging` checks the same on the tower itself.

    Args:
        model_cfg: open_clip model configuration of a supported tower.
        token_merging: Number of tokens to merge per block.
        name: The user's name for the model, for the message.

    Raises:
        UserError: The family cannot merge tokens, or the tower has too few of them. The number of timm's tokens is not
            in the configuration, so that only `with_merging` checks it.
    """
    if not token_merging:
        return
    kind, vision = family(model_cfg), vision_config(model_cfg)
    if kind == "resnet":
        raise no_merging(name, token_merging, "a ResNet has no tokens")
    if kind == "timm" and TIMM_EVA.match(vision["timm_model_name"]):
        raise no_merging(name, token_merging, f"its image tower is timm's {vision['timm_model_name']}")
    if vision["block_type"] == "custom" or (vision["block_type"] is None and any(vision[k] for k in CUSTOM_BLOCKS)):
        raise no_merging(name, token_merging, "it has open_clip's custom blocks")
    positions = positions_at_exits(model_cfg)
    if positions is not None:
        check_merged_tokens(name, token_merging, positions[0] * positions[1])


def check_merged_tokens(name: str, token_merging: int, patches: int) -> None:
    """Refuse to merge more than half of the patches in the first block.

    Raises:
        UserError: `token_merging` is larger than that.
    """
    if token_merging > patches // 2:
        raise UserError(
            f"backbone {name!r}: token_merging {token_merging} is too large; a block merges at most half of the "
            f"{patches} patches; use {patches // 2} or less"
        )


def no_merging(name: str, token_merging: int, why: str) -> UserError:
    """Return the error of a backbone that cannot merge tokens."""
    return UserError(
        f"backbone {name!r}: token_merging {token_merging} cannot be used: {why}; families that can merge tokens are "
        f"{MERGING}; leave token_merging out"
    )
