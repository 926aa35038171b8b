"""Closed forms of MACs. Imports neither torch nor open_clip: a dry run can tell which rate targets are out of reach."""

from dataclasses import dataclass

from tgems.errors import UserError

NORMALISATION_PER_ELEMENT = 5


@dataclass(frozen=True)
class EncoderCost:
    """MACs of an image encoder, matrix and convolution products only.

    Attributes:
        blocks: Stem and blocks 1..k, for k = 1..L.
        full: Stem, all blocks and projection.
        blocks_normalisation: LayerNorm of the same, as fvcore counts it: 5 per element.
        full_normalisation: The same for the whole encoder.
        projection: Frozen projection of one pooled token.
    """

    blocks: tuple[int, ...]
    full: int
    blocks_normalisation: tuple[int, ...]
    full_normalisation: int
    projection: int


def encoder_cost(model_cfg: dict) -> EncoderCost:
    """Count a Vision Transformer: g^2 3p^2 w + k (4 N w^2 + 2 N^2 w + 2 m N w^2), then w D for the projection.

    g = resolution / patch, N = g^2 + 1 tokens, w = width, m = MLP ratio, D = embedding dimension.

    Args:
        model_cfg: open_clip model configuration.

    Raises:
        UserError: The tower is none that this form covers.
    """
    vision = model_cfg["vision_cfg"]
    uncovered = [k for k in ("timm_model_name", "attentional_pool") if vision.get(k)]
    if uncovered or not isinstance(vision.get("layers"), int):
        what = uncovered[0] if uncovered else "layers"
        raise UserError(
            f"vision_cfg.{what} = {vision.get(what)!r}: only open_clip's plain Vision Transformers are covered"
        )
    width, depth, patch, size = vision["width"], vision["layers"], vision["patch_size"], vision["image_size"]
    grid = size // patch
    tokens = grid**2 + 1
    stem = grid**2 * 3 * patch**2 * width
    hidden = int(width * vision.get("mlp_ratio", 4.0))
    block = 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * hidden
    norm = NORMALISATION_PER_ELEMENT * tokens * width
    projection = width * model_cfg["embed_dim"]
    return EncoderCost(
        blocks=tuple(stem + k * block for k in range(1, depth + 1)),
        full=stem + depth * block + projection,
        blocks_normalisation=tuple((1 + 2 * k) * norm for k in range(1, depth + 1)),
        full_normalisation=(2 + 2 * depth) * norm,
        projection=projection,
    )


def head_macs(summary_dim: int, hidden: int, embed_dim: int) -> int:
    """MACs of one head: `A u + MLP(u)`; `hidden` 0 leaves the linear map alone."""
    return summary_dim * embed_dim + summary_dim * hidden + hidden * embed_dim


def gate_macs(inputs: int, hidden: int, outputs: int = 1) -> int:
    """MACs of one gate: one hidden layer."""
    return inputs * hidden + hidden * outputs


def bank_product_macs(bank_size: int, embed_dim: int) -> int:
    """MACs of one image embedding against a text bank."""
    return bank_size * embed_dim
