"""Build a frozen CLIP backbone with open_clip, from files that tgems/backbones/source.py has checked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from tgems.architectures.catalog import check_merging, check_supported, family
from tgems.architectures.open_clip_config import ModelConfig, OpenClipConfig
from tgems.backbones.checkpoint import load_checkpoint
from tgems.backbones.merging_towers import with_merging
from tgems.backbones.references import model_config, token_merging_of
from tgems.backbones.source import Source, encoder_digest, find_source
from tgems.backbones.tokenizer import build_tokenizer, require_hub_id
from tgems.backbones.towers import Tower, as_tower
from tgems.costs.exit_layout import exit_blocks
from tgems.data.network import network_errors, refuse_full_cache
from tgems.errors import UserError, first_line


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP model with its preprocessing and tokenizer.

    Attributes:
        entry: The backbone's entry in the configuration of the run.
        architecture: The configuration that the model was built from.
        model: open_clip model in eval mode, gradients off.
        tower: Its image tower, which merges tokens if the entry says so; the model's own `visual` never does.
        blocks: Exits for which features are kept, 1-based and ascending; the last is L.
        preprocess: PIL image -> float32 `[3, h, w]`.
        tokenizer: Texts -> int64 `[m, context_length]`.
        weights_digest: Digest of the checkpoint, or of the model if its weights are random; see `encoder_digest`.
        preprocess_digest: Description of the preprocessing, as text.
    """

    entry: dict
    architecture: ModelConfig
    model: Any
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

    @property
    def logit_bias(self) -> float | None:
        """Bias that models trained with a sigmoid loss, such as SigLIP, add to scaled similarities; else None.

        It is the same for all texts, so that it changes neither ranks nor the softmax over texts that policies use.
        """
        bias = self.model.logit_bias
        return None if bias is None else bias.item()


def load_backbone(backbone: dict) -> Backbone:
    """Load the backbone that an entry of the configuration describes (docs/adding-a-backbone.md).

    Args:
        backbone: `pretrained`, and where needed `model`, `exits`, `tokenizer` and `token_merging`.

    Raises:
        UserError: The architecture or the weights are unknown, the weights cannot be downloaded or do not fit, or they
            were trained with another activation function than the architecture's.
    """
    return build_backbone(find_source(backbone))


def build_backbone(source: Source) -> Backbone:
    """Build the model, its preprocessing and its tokenizer.

    Raises:
        UserError: open_clip cannot build the architecture, the weights do not fit, or the tokenizer cannot be loaded.
    """
    from open_clip import set_model_preprocess_cfg

    config, entry = source.config.model_cfg, source.entry
    model = build_model(config, source.name)
    tower = with_merging(as_tower(model.visual), token_merging_of(entry), source.name)
    if source.checkpoint is not None:
        load_checkpoint(model, source.checkpoint, source.name, config.quick_gelu)
    model.eval().requires_grad_(False)
    settings, preprocess = preprocessing(source.config)
    set_model_preprocess_cfg(model, settings)
    return Backbone(
        entry=entry,
        architecture=config,
        model=model,
        tower=tower,
        blocks=tuple(exit_blocks(entry.get("exits", "all"), range(1, tower.depth + 1))),
        preprocess=preprocess,
        tokenizer=build_tokenizer(config.text_cfg, entry.get("tokenizer")),
        weights_digest=source.weights_digest or encoder_digest(model.state_dict(), entry),
        preprocess_digest=str(preprocess),
    )


def preprocessing(config: OpenClipConfig) -> tuple[dict, Callable]:
    """Return the preprocessing for evaluation, as open_clip builds it.

    The image size is that of the image tower; open_clip ignores the one in `preprocess_cfg` as well.

    Returns:
        The settings, and a callable from a PIL image to float32 `[3, h, w]`.
    """
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

    size = config.model_cfg.vision_cfg.image_size
    if family(config.model_cfg.model_dump(exclude_unset=True)) != "resnet" and isinstance(size, int):
        size = (size, size)
    given = config.preprocess_cfg.model_dump(mode="json", exclude_unset=True) | {"size": size}
    settings = merge_preprocess_dict(asdict(PreprocessCfg()), given)
    transform: Any = image_transform_v2(PreprocessCfg(**settings), is_train=False)
    return settings, transform


def train_transform(backbone: Backbone, aug_cfg: dict | None = None) -> Callable:
    """Build the augmenting preprocessing of training as open_clip does: PIL image -> float32 `[3, h, w]`.

    Args:
        backbone: A loaded backbone.
        aug_cfg: open_clip's `AugmentationCfg` as a mapping; None for its defaults.
    """
    from open_clip.transform import PreprocessCfg, image_transform_v2

    settings = PreprocessCfg(**backbone.model.visual.preprocess_cfg)
    transform: Any = image_transform_v2(settings, is_train=True, aug_cfg=aug_cfg)
    return transform


def build_image_tower(backbone: dict, device: str = "cpu") -> Tower:
    """Build a backbone's image tower without its weights, for counting MACs and parameters.

    Args:
        backbone: Entry of the configuration.
        device: Device of the parameters. They have no values on `meta`, and arbitrary values elsewhere.

    Raises:
        UserError: The architecture is unknown or not supported, or cannot merge as many tokens as the entry says.
    """
    from open_clip.model import _build_vision_tower

    cfg, name = model_config(backbone), backbone.get("model") or backbone["pretrained"]
    merged = token_merging_of(backbone)
    check_supported(cfg, name)
    check_merging(cfg, merged, name)
    vision: Any = _without_timm_weights(cfg["vision_cfg"])  # a mapping will do
    with _build_errors_on_one_line(name), torch.device("meta"):
        visual = _build_vision_tower(cfg["embed_dim"], vision, cfg.get("quick_gelu", False))
    return with_merging(as_tower(visual.to_empty(device=device).eval().requires_grad_(False)), merged, name)


def build_model(config: ModelConfig, name: str) -> Any:
    """Build a model of the class that open_clip's factory would choose, with random weights.

    The weights are drawn with seed 0; the caller's random generator is left as it is.

    Args:
        config: Validated architecture.
        name: Name of the backbone, for messages.

    Raises:
        UserError: open_clip cannot build the architecture, or its text tower needs code.
    """
    from open_clip import CLIP, CoCa, CustomTextCLIP

    arguments = config.model_dump(exclude_unset=True)
    arguments["vision_cfg"] = _without_timm_weights(arguments["vision_cfg"])
    custom = arguments.pop("custom_text", False)
    if hf_model := config.text_cfg.hf_model_name:
        _require_known_text_model(hf_model)
        custom, arguments["text_cfg"]["hf_model_pretrained"] = True, False
    built = CLIP if not custom else CustomTextCLIP if config.multimodal_cfg is None else CoCa
    with _build_errors_on_one_line(name), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model: Any = built(**arguments)
        if built is CoCa:  # open_clip leaves this parameter uninitialised, so that its values differ from run to run
            projection = model.text_decoder.text_projection
            nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
        return model


def _without_timm_weights(vision: dict) -> dict:
    """Return an image tower's configuration that does not make timm download weights."""
    return vision | ({"timm_model_pretrained": False} if "timm_model_name" in vision else {})


def _require_known_text_model(name: str) -> None:
    """Refuse a text tower from transformers that needs code from its repository.

    open_clip does not decline such code, so that transformers would ask the user on the terminal whether to run it. A
    configuration can also name an attention kernel, which transformers would download.

    Raises:
        UserError: The text tower needs code, has a type that open_clip does not know, or cannot be downloaded.
    """
    from open_clip.hf_configs import arch_dict
    from transformers import AutoConfig

    require_hub_id(name, "where no such folder lies")
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (*network_errors(), LookupError, TypeError, AttributeError) as error:
        refuse_full_cache(error)
        raise UserError(
            f"text tower {name!r} cannot be loaded without running code of its own: {first_line(error)}; connect to "
            "the internet, or use a backbone without it"
        ) from error
    if config.model_type not in arch_dict:
        known = ", ".join(arch_dict)
        raise UserError(f"text tower {name!r} has type {config.model_type!r}; open_clip supports {known}")
    if config._attn_implementation not in (None, "eager", "sdpa"):  # any other name may be a kernel to download
        raise UserError(f"text tower {name!r} asks for the attention {config._attn_implementation!r}, which is code")


@contextmanager
def _build_errors_on_one_line(name: str) -> Iterator[None]:
    """Turn the errors of open_clip and timm about inconsistent sizes into one line."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError) as error:
        raise UserError(
            f"backbone {name!r}: open_clip cannot build the architecture of its configuration ({first_line(error)}); "
            "check model_cfg, or download it again"
        ) from error
