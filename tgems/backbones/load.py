"""Load a frozen CLIP backbone through open_clip. The only place, with pretraining, that imports open_clip."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from tgems.backbones.config import model_config, split_open_clip, split_source
from tgems.errors import UserError
from tgems.provenance import digest_tensors


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP model with its preprocessing and tokenizer.

    Attributes:
        model: open_clip model in eval mode, gradients off.
        preprocess: PIL image -> float32 `[3, h, w]`.
        tokenizer: Texts -> int64 `[m, context_length]`.
        weights_digest: SHA-256 of all parameters and buffers.
        preprocess_digest: Description of the preprocessing, as text.
    """

    model: nn.Module
    preprocess: Callable
    tokenizer: Callable
    weights_digest: str
    preprocess_digest: str

    @property
    def tower(self) -> nn.Module:
        return self.model.visual

    @property
    def logit_scale(self) -> float:
        """Temperature of the similarities, already exponentiated."""
        return self.model.logit_scale.exp().item()


def load_backbone(source: str) -> Backbone:
    """Load `local-dir:FOLDER` or `open_clip:ARCHITECTURE/TAG` (`random` as tag: random weights, seed 0).

    Raises:
        UserError: Unknown source, weights that do not fit, or OpenAI weights without QuickGELU.
    """
    import open_clip

    scheme, _ = split_source(source)
    if scheme == "local-dir":
        name, tag = source, None
    else:
        name, tag = split_open_clip(source)
        _check_quickgelu(source, name, tag)
        torch.manual_seed(0)
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=tag)
    except (RuntimeError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"backbone source {source!r}: open_clip cannot load it: {first}") from error
    model.eval().requires_grad_(False)
    return Backbone(
        model=model,
        preprocess=preprocess,
        tokenizer=open_clip.get_tokenizer(name),
        weights_digest=digest_tensors(model.state_dict().items()),
        preprocess_digest=str(preprocess),
    )


def build_image_tower(source: str) -> nn.Module:
    """Build a backbone's image tower from its architecture alone, with random weights: for counting."""
    from open_clip.model import CLIP

    return CLIP(**model_config(source)).visual.eval()


def _check_quickgelu(source: str, arch: str, tag: str | None) -> None:
    """Weights trained with QuickGELU lose accuracy silently under GELU, and the reverse."""
    import open_clip

    if tag is None:
        return
    pretrained = open_clip.get_pretrained_cfg(arch, tag)
    if not pretrained:
        raise UserError(f"backbone source {source!r}: open_clip knows no weights {tag!r} for {arch!r}")
    trained_with = bool(pretrained.get("quick_gelu", False))
    built_with = bool(open_clip.get_model_config(arch).get("quick_gelu", False))
    if trained_with != built_with:
        wanted = f"{arch}-quickgelu" if trained_with else arch.removesuffix("-quickgelu")
        raise UserError(
            f"backbone source {source!r}: the weights were trained with "
            f"{'QuickGELU' if trained_with else 'GELU'}; write 'open_clip:{wanted}/{tag}'"
        )
