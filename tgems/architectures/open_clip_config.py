"""The keys and values that tgems accepts in an open_clip_config.json, as closed pydantic models.

The file comes with weights and may therefore be untrusted. The allowed keys are the fields of open_clip's own
dataclasses. No value can name code, and names refer to the Hugging Face hub, never to paths. This module imports
neither torch nor open_clip.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from tgems.untrusted import Closed, HubId, Size

CONFIG_NAME = "open_clip_config.json"
Positive = Annotated[float, Field(gt=0, le=1e6)]
Share = Annotated[float, Field(ge=0, lt=1)]
Depth = Annotated[int, Field(ge=1, le=1024)]
ImageSize = Annotated[int, Field(ge=1, le=2**13)]
Channels = tuple[float, float, float]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
INERT = {
    "vision_cfg": {"timm_model_pretrained", "timm_drop", "timm_drop_path", "patch_dropout", "output_tokens"},
    "text_cfg": {"hf_model_pretrained", "output_tokens"},
    "output_dict": True,
    "init_logit_scale": True,
    "init_logit_bias": True,
}
"""Keys that have no effect on the embeddings of a model with loaded weights."""


class Activation(Closed):
    """Options of `torch.nn.GELU`."""

    approximate: Literal["none", "tanh"] = "none"


class Norm(Closed):
    """Options of `torch.nn.LayerNorm`."""

    eps: Positive = 1e-5


class Attention(Closed):
    """Options of transformer blocks that both towers have."""

    act_kwargs: Activation | None = None
    norm_kwargs: Norm | None = None
    block_type: Literal["default", "custom"] | None = None
    qk_norm: bool = False
    scaled_cosine_attn: bool = False
    scale_heads: bool = False
    scale_attn_inner: bool = False
    scale_attn: bool = False
    scale_fc: bool = False
    mlp_ratio: Positive = 4.0
    ls_init_value: float | None = None
    output_tokens: bool = False
    final_ln_after_pool: bool = False


class VisionConfig(Attention):
    """`vision_cfg`: the image tower (open_clip.model.CLIPVisionCfg)."""

    layers: Depth | tuple[Depth, Depth, Depth, Depth] = 12
    width: Size = 768
    head_width: Size = 64
    patch_size: ImageSize | tuple[ImageSize, ImageSize] | None = 16
    image_size: ImageSize | tuple[ImageSize, ImageSize] = 224
    patch_dropout: Share = 0.0
    attentional_pool: bool | Literal["parallel", "cascade"] = False
    attn_pooler_queries: Size = 256
    attn_pooler_heads: Size = 8
    no_ln_pre: bool = False
    pos_embed_type: Literal["learnable", "sin_cos_2d"] = "learnable"
    pool_type: Literal["tok", "avg", "none"] = "tok"
    timm_model_name: Name | None = None
    timm_model_pretrained: bool = False
    timm_pool: Literal["abs_attn", "rot_attn", "avg", "avgmax", "max", "token", "map", ""] = "avg"
    timm_proj: Literal["linear", "mlp", "none", ""] | None = "linear"
    timm_proj_bias: bool = False
    timm_drop: Share = 0.0
    timm_drop_path: Share | None = None


class TokenizerOptions(Closed):
    """`tokenizer_kwargs`: how texts are cleaned. Other options are refused, since they could name code or files."""

    clean: Literal["canonicalize", "lower", "whitespace"] | None = None
    strip_sep_token: bool | None = None
    language: Annotated[str, Field(pattern="^[A-Za-z_]{1,32}$")] | None = None


class TextConfig(Attention):
    """`text_cfg`: the text tower and its tokenizer (open_clip.model.CLIPTextCfg)."""

    context_length: Size = 77
    vocab_size: Size = 49408
    hf_tokenizer_name: HubId | Literal[""] | None = None
    tokenizer_mode: Literal["clips"] | None = None
    tokenizer_kwargs: TokenizerOptions | None = None
    width: Size = 512
    heads: Size = 8
    layers: Depth = 12
    embed_cls: bool = False
    pad_id: Annotated[int, Field(ge=0)] = 0
    eos_id: Annotated[int, Field(ge=0)] = 2
    no_causal_mask: bool = False
    pool_type: Literal["first", "last", "argmax", "eos", "none"] = "argmax"
    proj_bias: bool = False
    proj_type: Literal["linear", "none"] | None = "linear"
    hf_model_name: HubId | None = None
    hf_model_pretrained: bool = True
    hf_proj_type: Literal["linear", "mlp"] | None = "mlp"
    hf_pooler_type: Literal["mean_pooler", "max_pooler", "cls_pooler", "cls_last_hidden_state_pooler"] | None = (
        "mean_pooler"
    )


class MultimodalConfig(TextConfig):
    """`multimodal_cfg`: CoCa's caption decoder (open_clip.coca_model.MultimodalCfg)."""

    dim_head: Size = 64
    n_queries: Size = 256
    attn_pooler_heads: Size = 8


class ModelConfig(Closed):
    """`model_cfg`: the architecture that open_clip builds."""

    embed_dim: Size
    vision_cfg: VisionConfig
    text_cfg: TextConfig
    quick_gelu: bool = False
    custom_text: bool = False
    multimodal_cfg: MultimodalConfig | None = None
    init_logit_scale: float | None = None
    init_logit_bias: float | None = None
    nonscalar_logit_scale: bool = False
    output_dict: bool = False
    pad_id: Annotated[int, Field(ge=0)] = 0

    def differs(self, other: "ModelConfig") -> str | None:
        """Return the first key by which another architecture embeds images or texts differently, or None.

        Nested keys are joined by dots, as in `vision_cfg.layers`.
        """
        left, right = (_flat(config.model_dump(exclude=INERT)) for config in (self, other))
        return next((key for key in sorted({*left, *right}) if left.get(key) != right.get(key)), None)

    def value(self, key: str) -> Any:
        """Return the value of a key in the form that `differs` returns, such as `vision_cfg.layers`."""
        return _flat(self.model_dump()).get(key)


class PreprocessConfig(Closed):
    """`preprocess_cfg`: how an image is resized and normalised (open_clip.transform.PreprocessCfg)."""

    size: ImageSize | tuple[ImageSize, ImageSize] | None = None
    mode: Literal["RGB"] = "RGB"
    mean: Channels | None = None
    std: tuple[Positive, Positive, Positive] | None = None
    interpolation: Literal["bicubic", "bilinear", "random"] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = None
    fill_color: Annotated[int, Field(ge=0, le=255)] = 0


class OpenClipConfig(Closed):
    """The complete content of open_clip_config.json."""

    model_cfg: ModelConfig
    preprocess_cfg: PreprocessConfig = PreprocessConfig()


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings, joining keys by dots."""
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
