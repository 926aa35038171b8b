"""Closed-form MAC counts of encoders and exit modules.

Imports neither torch nor open_clip, so that a dry run can check which rate targets are out of reach.
"""

from dataclasses import dataclass
from itertools import accumulate

from tgems.architectures.catalog import as_pair, family, text_config, vision_config

NORMALISATION_PER_ELEMENT = 5
BANK_FEATURES = 11
PRICE_INPUTS = 2
VARIANCE_GATE_INPUTS = 3


@dataclass(frozen=True)
class EncoderCost:
    """MACs of an image encoder for one image; `blocks` and `finish` count only matrix and convolution products.

    Attributes:
        blocks: MACs of the stem and blocks 1..k, for k = 1..L.
        finish: MACs of the frozen pooling and projection.
        blocks_normalisation: Operations of the norms of the stem and blocks 1..k as fvcore counts them: 5 per element
            of a LayerNorm, 2 per element of a BatchNorm.
        finish_normalisation: The same for the frozen pooling and projection.
        widths: Number of channels of a token or position after each block.
        embed_dim: Dimension `D` of the embeddings.
    """

    blocks: tuple[int, ...]
    finish: int
    blocks_normalisation: tuple[int, ...]
    finish_normalisation: int
    widths: tuple[int, ...]
    embed_dim: int

    @property
    def full(self) -> int:
        """MACs of the whole encoder: stem, all blocks, pooling and projection."""
        return self.blocks[-1] + self.finish

    @property
    def full_normalisation(self) -> int:
        """Operations of all norms of the encoder."""
        return self.blocks_normalisation[-1] + self.finish_normalisation


def encoder_cost(model_cfg: dict, token_merging: int = 0) -> EncoderCost | None:
    """Count the MACs of a supported image encoder; None for timm's, whose sizes are not in the configuration.

    Args:
        model_cfg: open_clip model configuration.
        token_merging: Number of tokens that each block merges; see `merged_per_block`.

    Raises:
        ValueError: Tokens are to be merged, and the encoder is a ResNet, which has none.
    """
    kind, vision = family(model_cfg), vision_config(model_cfg)
    if kind == "vit":
        return _transformer_cost(vision, model_cfg["embed_dim"], token_merging)
    if token_merging and kind == "resnet":
        raise ValueError("a ResNet has no tokens to merge")
    return _resnet_cost(vision, model_cfg["embed_dim"]) if kind == "resnet" else None


def merged_per_block(patches: int, depth: int, token_merging: int) -> list[int]:
    """Return how many tokens each block merges (docs/method.md#token-merging).

    That is `token_merging`, but at most half of the tokens that are left, not counting class and register tokens: only
    every other token can be merged into another one.

    Args:
        patches: Number of tokens before the first block, without class and register tokens.
        depth: Number of blocks.
        token_merging: Number of tokens that each block merges where there are enough, r in the paper.
    """
    merged = []
    for _ in range(depth):
        merged.append(min(token_merging, patches // 2))
        patches -= merged[-1]
    return merged


def _transformer_cost(vision: dict, embed_dim: int, token_merging: int) -> EncoderCost:
    """Count the MACs of a Vision Transformer.

    With g^2 patches of p x p pixels, N = g^2 + 1 tokens, width w, MLP ratio m and embedding dimension D, the stem and k
    blocks take g^2 3p^2 w + k (4 N w^2 + 2 N^2 w + 2 m N w^2), and the projection of the pooled token takes w D. An
    attentional pooler with q queries takes 2 q D^2 + 2 N w D + 2 q N D, and is followed by a projection from D to D.

    If a block merges r of its N tokens, its MLP takes 2 m (N - r) w^2, and comparing keys of d_head numbers takes
    ceil((N - 1) / 2) floor((N - 1) / 2) d_head. The pooling is that of all N tokens of the first block.
    """
    width, depth = vision["width"], vision["layers"]
    (height, breadth), (tall, wide) = as_pair(vision["image_size"]), as_pair(vision["patch_size"])
    patches = (height // tall) * (breadth // wide)
    hidden, head_width = int(width * vision["mlp_ratio"]), width // (width // vision["head_width"])
    first = NORMALISATION_PER_ELEMENT * (patches + 1) * width
    macs = [patches * 3 * tall * wide * width]
    norms = [0 if vision["no_ln_pre"] else first]
    left = patches
    for merged in merged_per_block(patches, depth, token_merging):
        before, after = left + 1, left + 1 - merged
        attention = 4 * before * width**2 + 2 * before**2 * width
        matching = (left // 2) * (left - left // 2) * head_width if merged else 0
        macs.append(attention + matching + 2 * after * width * hidden)
        norms.append(NORMALISATION_PER_ELEMENT * (before + after) * width)
        left -= merged
    finish, finish_norm = (
        width * embed_dim,
        NORMALISATION_PER_ELEMENT * width if vision["final_ln_after_pool"] else first,
    )
    if vision["attentional_pool"]:
        queries, tokens = vision["attn_pooler_queries"], patches + 1
        finish = 2 * queries * embed_dim**2 + 2 * tokens * width * embed_dim + 2 * queries * tokens * embed_dim
        finish += embed_dim**2
        finish_norm = first + 2 * NORMALISATION_PER_ELEMENT * queries * embed_dim
    return EncoderCost(
        blocks=tuple(accumulate(macs))[1:],
        finish=finish,
        blocks_normalisation=tuple(accumulate(norms))[1:],
        finish_normalisation=finish_norm,
        widths=(width,) * depth,
        embed_dim=embed_dim,
    )


def _resnet_cost(vision: dict, embed_dim: int) -> EncoderCost:
    """Count the MACs of a ResNet: three stem convolutions, four stages of bottlenecks, and attention pooling.

    A bottleneck with i input channels and p planes takes i p + 9 p^2 MACs per position before its stride and 4 p^2
    after it, and another 4 i p after it if its shortcut has a convolution. Attention pooling has N = g^2 + 1 tokens.
    """
    width, size = vision["width"], vision["image_size"] // 2
    half = width // 2
    macs = size**2 * (27 * half + 9 * half**2 + 9 * half * width)
    norms = 2 * size**2 * (2 * half + width)
    size, inputs = size // 2, width
    per_stage, norm_per_stage, widths = [], [], []
    for stage, depth in enumerate(vision["layers"]):
        planes, stage_macs, stage_norms = width * 2**stage, 0, 0
        for block in range(depth):
            widens = block == 0
            before, size = size**2, size // 2 if stage and widens else size
            after = size**2
            stage_macs += before * (inputs * planes + 9 * planes**2) + after * 4 * planes**2
            stage_macs += after * 4 * inputs * planes * widens
            stage_norms += 2 * (before * 2 * planes + after * 4 * planes * (1 + widens))
            inputs = 4 * planes
        per_stage.append(stage_macs)
        norm_per_stage.append(stage_norms)
        widths.append(inputs)
    tokens = size**2 + 1
    finish = 3 * tokens * inputs**2 + 2 * tokens**2 * inputs + tokens * inputs * embed_dim
    return EncoderCost(
        blocks=tuple(accumulate(per_stage, initial=macs))[1:],
        finish=finish,
        blocks_normalisation=tuple(accumulate(norm_per_stage, initial=norms))[1:],
        finish_normalisation=0,
        widths=tuple(widths),
        embed_dim=embed_dim,
    )


def text_macs(model_cfg: dict) -> int | None:
    """Count the MACs of a text tower for one text; None if it is one of transformers.

    With T tokens, width w, MLP ratio m, k blocks and embedding dimension D, it takes k (4 T w^2 + 2 T^2 w + 2 m T w^2),
    and the projection of the pooled token w D.

    Args:
        model_cfg: open_clip model configuration.
    """
    text = text_config(model_cfg)
    if text["hf_model_name"]:
        return None
    tokens, width = text["context_length"] + text["embed_cls"], text["width"]
    block = 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * int(width * text["mlp_ratio"])
    return text["layers"] * block + width * model_cfg["embed_dim"]


def head_macs(summary_dim: int, hidden: int, embed_dim: int) -> int:
    """Return the MACs of one head, `A u + MLP(u)`; with `hidden` 0 the head is a linear map."""
    return summary_dim * embed_dim + summary_dim * hidden + hidden * embed_dim


def gate_macs(inputs: int, hidden: int, outputs: int = 1) -> int:
    """Return the MACs of one gate with one hidden layer."""
    return inputs * hidden + hidden * outputs


def bank_gate_inputs(summary_dim: int) -> int:
    """Return the number of inputs of a bank-guided gate: the summary and the bank features."""
    return summary_dim + BANK_FEATURES


def variance_gate_macs(summary_dim: int, hidden: int) -> int:
    """Return the MACs of one gate on probability, margin and spatial variance, which squares the summary twice."""
    return gate_macs(VARIANCE_GATE_INPUTS, hidden) + 2 * summary_dim


def bank_product_macs(bank_size: int, embed_dim: int) -> int:
    """Return the MACs of comparing one image embedding with the texts of a bank."""
    return bank_size * embed_dim
