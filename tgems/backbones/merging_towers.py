"""Image towers that merge tokens: the blocks of a plain tower, run on fewer and fewer tokens.

Nothing in open_clip or timm is changed: a block is computed here from its parameters, with the merging in between.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tgems.architectures.catalog import check_merged_tokens, no_merging
from tgems.backbones.states import MergedTokens
from tgems.backbones.token_merging import (
    match_tokens,
    merge_tokens,
    new_owners,
    proportional_attention,
    select_tokens,
    token_sizes,
)
from tgems.backbones.towers import TimmTower, TokenTower, Tower, VisionTransformerTower
from tgems.costs.closed_form import merged_per_block


class MergingTower(Tower):
    """A tower that merges tokens in every block, between attention and MLP (docs/method.md#token-merging).

    Its state is `MergedTokens`. Summaries and the frozen pooling and projection see, in the place of each patch, the
    token that stands for it. A mean over patches or attention to them then counts a token as often as it has patches.

    Args:
        plain: The tower whose blocks are run.
        token_merging: Number of tokens to merge per block; see `merged_per_block`.
    """

    def __init__(self, plain: TokenTower, token_merging: int):
        super().__init__(plain.visual, plain.blocks, plain.widths)
        self.plain, self.end, self.has_class_token = plain, plain.end, plain.has_class_token
        rows, columns = plain.grid_size
        self.patches = rows * columns
        self.merged = merged_per_block(self.patches, self.depth, token_merging)

    @abstractmethod
    def attend(self, block: Any, tokens: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Apply the first half of a block, norm and attention.

        Args:
            block: The block.
            tokens: Tokens `[n, N, w]`.
            sizes: Sizes of the tokens; see `proportional_attention`.

        Returns:
            Tokens after the attention, and its keys `[n, H, N, d]`.
        """

    @abstractmethod
    def transform(self, block: Any, tokens: Tensor) -> Tensor:
        """Apply the second half of a block, norm and MLP."""

    def stem(self, images: Tensor) -> MergedTokens:
        """Compute the tokens before the first block, each patch being a token of its own."""
        tokens = self.plain.stem(images)
        numbers = torch.arange(self.plain.prefix, tokens.shape[1], device=tokens.device)
        return MergedTokens(tokens, numbers.expand(len(tokens), -1))

    def block(self, k: int, state: MergedTokens) -> MergedTokens:
        """Apply block k, counted from 0, and merge tokens in it."""
        tokens, owners, prefix = state.tokens, state.owners, self.plain.prefix
        sizes = token_sizes(owners, tokens.shape[1], prefix)
        unmerged = tokens.shape[1] == prefix + self.patches
        tokens, keys = self.attend(self.blocks[k], tokens, None if unmerged else sizes)
        if self.merged[k]:
            matching = match_tokens(keys.mean(1), prefix, self.merged[k])
            tokens, owners = merge_tokens(tokens, sizes, matching), new_owners(owners, matching)
        return MergedTokens(self.transform(self.blocks[k], tokens), owners)

    def encode(self, images: Tensor) -> Tensor:
        """See `Tower.encode`."""
        state = self.stem(images)
        for k in range(self.depth):
            state = self.block(k, state)
        return self.finish(state)

    def finish(self, state: MergedTokens) -> Tensor:
        """Apply the frozen pooling and projection to the tokens of all patches."""
        return self.plain.finish(self.unmerge(state))

    def feature_map(self, state: MergedTokens) -> Tensor:
        """Return a map in which each patch has the token that stands for it `[n, w, height, width]`."""
        return self.plain.feature_map(self.unmerge(state))

    def whole_image(self, state: MergedTokens) -> Tensor:
        """See `Tower.whole_image`."""
        return self.plain.whole_image(self.unmerge(state))

    def summarise(self, state: MergedTokens, grids: Sequence[int]) -> Tensor:
        """See `Tower.summarise`."""
        return self.plain.summarise(self.unmerge(state), grids)

    def unmerge(self, state: MergedTokens) -> Tensor:
        """Return class and register tokens, and for each patch the token that stands for it `[n, prefix + P, w]`."""
        return torch.cat([state.tokens[:, : self.plain.prefix], select_tokens(state.tokens, state.owners)], 1)


class MergingVisionTransformer(MergingTower):
    """Merges tokens in open_clip's own `VisionTransformer`, whose blocks are `ResidualAttentionBlock`."""

    def attend(self, block: Any, tokens: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `MergingTower.attend`."""
        attn = block.attn
        joint = F.linear(block.ln_1(tokens), attn.in_proj_weight, attn.in_proj_bias)
        query, key, value = (part.unflatten(2, (attn.num_heads, -1)).transpose(1, 2) for part in joint.chunk(3, -1))
        attended = proportional_attention(query, key, value, sizes).transpose(1, 2).flatten(2)
        return tokens + block.ls_1(attn.out_proj(attended)), key

    def transform(self, block: Any, tokens: Tensor) -> Tensor:
        """See `MergingTower.transform`."""
        return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))


class MergingTimm(MergingTower):
    """Merges tokens in timm's `VisionTransformer`, whose blocks are `Block`."""

    def attend(self, block: Any, tokens: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `MergingTower.attend`."""
        attn = block.attn
        joint = attn.qkv(block.norm1(tokens)).unflatten(2, (3, attn.num_heads, attn.head_dim))
        query, key, value = joint.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = attn.q_norm(query), attn.k_norm(key)
        attended = attn.norm(proportional_attention(query, key, value, sizes).transpose(1, 2).flatten(2))
        return tokens + block.ls1(attn.proj(attended)), key

    def transform(self, block: Any, tokens: Tensor) -> Tensor:
        """See `MergingTower.transform`."""
        return tokens + block.ls2(block.mlp(block.norm2(tokens)))


def with_merging(tower: Tower, token_merging: int, name: str) -> Tower:
    """Return a tower that merges tokens; with `token_merging` 0, the tower itself.

    Args:
        tower: A plain tower.
        token_merging: Number of tokens to merge per block; see `merged_per_block`.
        name: The user's name for the model, for messages.

    Raises:
        UserError: The tower's family cannot merge tokens, or it has too few of them.
    """
    from open_clip.transformer import ResidualAttentionBlock
    from timm.layers.attention import Attention
    from timm.models.vision_transformer import Block

    if not token_merging:
        return tower
    if type(tower) is VisionTransformerTower and all(type(block) is ResidualAttentionBlock for block in tower.blocks):
        kind = MergingVisionTransformer
    elif type(tower) is TimmTower and all(
        type(block) is Block and type(block.attn) is Attention and block.attn.gate is None for block in tower.blocks
    ):
        kind = MergingTimm
    else:
        raise no_merging(name, token_merging, f"its image tower is a {type(tower.visual).__name__}")
    rows, columns = tower.grid_size
    check_merged_tokens(name, token_merging, rows * columns)
    return kind(tower, token_merging)
