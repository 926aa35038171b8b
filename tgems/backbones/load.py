"""Load a frozen CLIP backbone through open_clip; weights are read without executing pickles."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from tgems.backbones.checkpoint import load_checkpoint
from tgems.backbones.config import check_same, check_supported, model_config, weights_form
from tgems.backbones.towers import Tower, as_tower
from tgems.errors import UserError
from tgems.exits.sizes import exit_blocks
from tgems.provenance import digest_tensors

logger = logging.getLogger(__name__)
REMOTE = ("tag", "hf-hub")
CONNECT = "connect to the internet, or name a copy by 'pretrained: FILE' or 'pretrained: local-dir:FOLDER'"
CONNECT_TOKENIZER = "connect to the internet, or name a folder that holds it by 'pretrained: local-dir:FOLDER'"
FOLDER = "put the tokenizer's files into the folder"
RESIZING = ("mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP model with its preprocessing and tokenizer.

    Attributes:
        entry: What the configuration says of it.
        model: open_clip model in eval mode, gradients off.
        tower: Its image tower.
        blocks: Exits that features are kept for, 1-based, ascending; the last is L.
        preprocess: PIL image -> float32 `[3, h, w]`.
        tokenizer: Texts -> int64 `[m, context_length]`.
        weights_digest: SHA-256 of all parameters and buffers.
        preprocess_digest: Description of the preprocessing, as text.
    """

    entry: dict
    model: nn.Module
    tower: Tower
    blocks: tuple[int, ...]
    preprocess: Callable
    tokenizer: Callable
    weights_digest: str
    preprocess_digest: str

    @property
    def logit_scale(self) -> float:
        """Temperature of the similarities, already exponentiated."""
        return self.model.logit_scale.exp().item()


def load_backbone(backbone: dict) -> Backbone:
    """Load what an entry of the configuration describes (docs/adding-a-backbone.md).

    Args:
        backbone: `pretrained`, and where needed `model` and `exits`.

    Raises:
        UserError: Unknown architecture or weights, weights that cannot be fetched or do not fit, or weights trained
            with another activation than the architecture's.
    """
    name = backbone.get("model") or backbone["pretrained"]
    check_supported(model_config(backbone), name)
    form, pretrained = weights_form(backbone["pretrained"]), backbone["pretrained"]
    with _one_line(
        f"backbone weights {pretrained!r} of {name!r}", CONNECT if form in REMOTE else "check that they fit"
    ):
        model, preprocess = _create(backbone, form)
    tokenizer = load_tokenizer(backbone)
    model.eval().requires_grad_(False)
    tower = as_tower(model.visual)
    return Backbone(
        entry=backbone,
        model=model,
        tower=tower,
        blocks=tuple(exit_blocks(backbone.get("exits", "all"), range(1, tower.depth + 1))),
        preprocess=preprocess,
        tokenizer=tokenizer,
        weights_digest=digest_tensors(model.state_dict().items()),
        preprocess_digest=str(preprocess),
    )


def train_transform(backbone: Backbone, aug_cfg: dict | None = None) -> Callable:
    """Augmenting preprocessing of training, as open_clip builds it: PIL image -> float32 `[3, h, w]`.

    Args:
        backbone: Loaded.
        aug_cfg: open_clip's `AugmentationCfg` as a mapping; None for its defaults.
    """
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return image_transform_v2(PreprocessCfg(**backbone.model.visual.preprocess_cfg), is_train=True, aug_cfg=aug_cfg)


def load_tokenizer(backbone: dict) -> Callable:
    """Tokenizer of an entry of the configuration: texts -> int64 `[m, context_length]`. Reads no weights.

    Raises:
        UserError: Unknown architecture, a folder without configuration, or a tokenizer that cannot be fetched.
    """
    import open_clip

    form = weights_form(backbone["pretrained"])
    check_supported(model_config(backbone), backbone.get("model") or backbone["pretrained"])
    known = backbone["pretrained"] if form in ("hf-hub", "local-dir") else backbone["model"]
    with _one_line(f"tokenizer of backbone {known!r}", FOLDER if form == "local-dir" else CONNECT_TOKENIZER):
        return open_clip.get_tokenizer(known)


def build_image_tower(backbone: dict, device: str = "cpu") -> Tower:
    """Build a backbone's image tower from its architecture alone: for counting.

    Args:
        backbone: Entry of the configuration.
        device: Parameters have no values on `meta`, and arbitrary ones elsewhere; untouched memory is never taken up.

    Raises:
        UserError: The architecture is unknown or not supported.
    """
    from open_clip.model import _build_vision_tower

    cfg = model_config(backbone)
    check_supported(cfg, backbone.get("model") or backbone["pretrained"])
    vision = cfg["vision_cfg"] | ({"timm_model_pretrained": False} if "timm_model_name" in cfg["vision_cfg"] else {})
    with torch.device("meta"):
        visual = _build_vision_tower(cfg["embed_dim"], vision, cfg.get("quick_gelu", False))
    return as_tower(visual.to_empty(device=device).eval().requires_grad_(False))


def _create(backbone: dict, form: str) -> tuple[nn.Module, Callable]:
    """Model, and preprocessing of evaluation."""
    import open_clip

    name, pretrained = backbone.get("model"), backbone["pretrained"]
    if form == "tag":
        _check_tag(name, pretrained)
    if form == "hf-hub":
        check_same(name, open_clip.get_model_config(pretrained), pretrained)
    if form not in ("random", "file"):
        known, tag = (name, pretrained) if form == "tag" else (pretrained, None)
        return open_clip.create_model_from_pretrained(known, pretrained=tag)
    torch.manual_seed(0)
    options = {"pretrained_text": False, **_published_preprocessing(name)}
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=None, **options)
    if form == "file":
        load_checkpoint(model, name, pretrained)
    return model, preprocess


@contextmanager
def _one_line(what: str, mend: str) -> Iterator[None]:
    """Turn what open_clip raises into one line that names `what` and ends in `mend`."""
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, OSError, ValueError, ImportError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(f"{what} cannot be loaded: {first}; {mend}") from error


def _check_tag(name: str, tag: str) -> None:
    """Weights trained with QuickGELU lose accuracy silently under GELU, and the reverse."""
    import open_clip

    published = open_clip.get_pretrained_cfg(name, tag)
    if not published:
        tags = open_clip.list_pretrained_tags_by_model(name)
        hint = f"known: {', '.join(tags)}" if tags else "it knows none for this architecture"
        raise UserError(f"backbone weights {tag!r}: open_clip knows no weights {tag!r} for {name!r}; {hint}")
    trained_with = bool(published.get("quick_gelu", False))
    if trained_with != bool(open_clip.get_model_config(name).get("quick_gelu", False)):
        wanted = f"{name}-quickgelu" if trained_with else name.removesuffix("-quickgelu")
        raise UserError(
            f"backbone weights {tag!r} of {name!r} were trained with {'QuickGELU' if trained_with else 'GELU'}; "
            f"write 'model: {wanted}'"
        )


def _published_preprocessing(name: str) -> dict:
    """What all published weights of an architecture were trained with; where they differ, nothing but a word."""
    import open_clip

    published = [open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)]
    distinct = {tuple(cfg.get(key) for key in RESIZING) for cfg in published}
    if len(distinct) == 1:
        return {f"image_{key}": value for key, value in zip(RESIZING, distinct.pop(), strict=True)}
    logger.info("%s: published weights do not agree on one preprocessing; open_clip's default is used", name)
    return {}
