"""Image towers split into stem, blocks and end, so that images can leave in between (docs/adding-a-backbone.md)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgems.architectures.catalog import SUPPORTED
from tgems.backbones.states import State
from tgems.costs.exit_layout import require_grid
from tgems.errors import UserError


class Tower(ABC):
    """An open_clip image tower that can be run block by block.

    The state between two steps is one tensor whose first dimension is the images, so that `state[keep]` drops images; a
    tower that merges tokens has `MergedTokens` instead, which can be indexed in the same way.

    Attributes:
        visual: open_clip's image tower.
        blocks: Its blocks.
        end: Prefixes of the names of the parameters of the frozen pooling and projection.
        depth: Number of blocks L.
        widths: Number of channels of a token or position after each block, `[L]`.
        has_class_token: Whether token 0 represents the whole image.
        image_size: Height and width in pixels.
        raw_reason: Why the frozen pooling and projection do not accept the state after any block; empty if they do.
    """

    end: tuple[str, ...]
    has_class_token = False
    raw_reason = ""
    visual: Any  # open_clip's and timm's modules declare no types for their parts

    def __init__(self, visual: Any, blocks: Sequence[nn.Module], widths: Sequence[int]):
        size = visual.image_size
        self.visual, self.blocks = visual, blocks
        self.widths, self.depth = tuple(widths), len(blocks)
        self.image_size = (size, size) if isinstance(size, int) else tuple(size)

    @property
    def accepts_raw(self) -> bool:
        """Whether `finish` accepts the state after any block."""
        return not self.raw_reason

    @abstractmethod
    def stem(self, images: Tensor) -> State:
        """Compute the state before the first block from images `[n, 3, h, w]`."""

    def block(self, k: int, state: State) -> State:
        """Apply block k, counted from 0."""
        return self.blocks[k](state)

    def encode(self, images: Tensor) -> Tensor:
        """Run the whole encoder, and return embeddings `[n, D]` that are not normalised."""
        embeddings = self.visual(images)
        return embeddings[0] if isinstance(embeddings, tuple) else embeddings  # CoCa's also returns tokens

    @abstractmethod
    def finish(self, state: State) -> Tensor:
        """Apply the frozen pooling and projection, and return embeddings `[n, D]` that are not normalised.

        After the last block they equal `visual(images)` bit for bit.
        """

    @abstractmethod
    def feature_map(self, state: State) -> Tensor:
        """Return the state as a map of positions `[n, w, height, width]`, without class and register tokens."""

    def whole_image(self, state: State) -> Tensor:
        """Return the class token `[n, w]`, or without one the maximum over all positions."""
        return self.feature_map(state).amax((2, 3))

    def summarise(self, state: State, grids: Sequence[int]) -> Tensor:
        """Summarise a state for exit modules (docs/method.md#notation).

        Args:
            state: State after a block.
            grids: Sizes g of grids. Each adds the means over the cells of a g x g grid of positions, row by row, as
                `torch.nn.AdaptiveAvgPool2d` computes them: cells overlap by one position where g does not divide the
                number of positions. 0 adds nothing.

        Returns:
            `whole_image` followed by the cells of each grid, `[n, 1 + sum of g^2, w]`.

        Raises:
            UserError: A grid has more rows or columns than there are positions.
        """
        parts = [self.whole_image(state)[:, None]]
        for grid in grids:
            if grid:
                positions = self.feature_map(state)
                require_grid(grid, positions.shape[2:], type(self.visual).__name__)
                parts.append(F.adaptive_avg_pool2d(positions, grid).flatten(2).transpose(1, 2))
        return torch.cat(parts, 1)


class TokenTower(Tower):
    """A tower whose state is a sequence of tokens `[n, N, w]`, with class and register tokens first.

    Attributes:
        prefix: Number of class and register tokens.
        grid_size: Number of rows and columns of patches.
    """

    prefix = 1
    grid_size: tuple[int, int]

    @abstractmethod
    def stem(self, images: Tensor) -> Tensor:
        """See `Tower.stem`."""

    def feature_map(self, state: Tensor) -> Tensor:
        """See `Tower.feature_map`."""
        return state[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid_size)

    def whole_image(self, state: Tensor) -> Tensor:
        """See `Tower.whole_image`."""
        return state[:, 0] if self.has_class_token else super().whole_image(state)


class VisionTransformerTower(TokenTower):
    """open_clip's own `VisionTransformer`."""

    end = ("ln_post", "attn_pool", "proj")
    has_class_token = True

    def __init__(self, visual: Any):
        blocks = visual.transformer.resblocks
        self.grid_size = tuple(visual.grid_size)
        super().__init__(visual, blocks, [visual.transformer.width] * len(blocks))

    def stem(self, images: Tensor) -> Tensor:
        """Embed patches with positions and class token, and normalise them."""
        return self.visual._embeds(images)

    def finish(self, state: Tensor) -> Tensor:
        """Apply pooling, norm and projection."""
        pooled, _ = self.visual._pool(state)
        return pooled if self.visual.proj is None else pooled @ self.visual.proj


class TimmTower(TokenTower):
    """timm's `VisionTransformer` or `Eva` within open_clip's `TimmModel`."""

    end = ("trunk.norm.", "trunk.attn_pool.", "trunk.fc_norm.", "trunk.head", "head")

    def __init__(self, visual: Any):
        self.trunk = visual.trunk
        self.has_class_token, self.prefix = self.trunk.cls_token is not None, self.trunk.num_prefix_tokens
        super().__init__(visual, self.trunk.blocks, [self.trunk.embed_dim] * len(self.trunk.blocks))
        self.grid_size = tuple(self.trunk.patch_embed.dynamic_feat_size(self.image_size))

    def stem(self, images: Tensor) -> Tensor:
        """Embed patches with positions and prefix tokens, and normalise them."""
        tokens = self.trunk._pos_embed(self.trunk.patch_embed(images))
        return self.trunk.norm_pre(self.trunk.patch_drop(tokens))

    def finish(self, state: Tensor) -> Tensor:
        """Apply norm, pooling and projection, those of timm and of open_clip."""
        return self.visual.head(self.trunk.forward_head(self.trunk.norm(state)))


class EvaTower(TimmTower):
    """A `TimmTower` whose blocks rotate queries and keys by position, by angles that belong to the tower."""

    def stem(self, images: Tensor) -> Tensor:
        """See `TimmTower.stem`."""
        tokens, _ = self.trunk._pos_embed(self.trunk.patch_embed(images))
        return self.trunk.norm_pre(tokens)

    def block(self, k: int, state: Tensor) -> Tensor:
        """Apply one residual attention block."""
        return self.blocks[k](state, rope=self._angles())

    def _angles(self) -> Tensor | None:
        rope = self.trunk.rope
        if rope is None:
            return None
        return (
            rope.get_embed() if hasattr(rope, "feat_shape") else rope.get_embed(shape=self.trunk.patch_embed.grid_size)
        )


class ResNetTower(Tower):
    """open_clip's `ModifiedResNet`: its four stages are the blocks, the state is `[n, w, h, w']`."""

    end = ("attnpool.",)
    raw_reason = "the attention pooling of a ResNet fits only the last stage's channels"

    def __init__(self, visual: Any):
        stages = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
        super().__init__(visual, stages, [stage[-1].conv3.out_channels for stage in stages])

    def stem(self, images: Tensor) -> Tensor:
        """Apply three convolutions and a pooling."""
        return self.visual.stem(images)

    def finish(self, state: Tensor) -> Tensor:
        """Apply the attention pooling, which includes the projection."""
        return self.visual.attnpool(state)

    def feature_map(self, state: Tensor) -> Tensor:
        """See `Tower.feature_map`."""
        return state


def as_tower(visual: nn.Module) -> Tower:
    """Cut an open_clip image tower.

    Raises:
        UserError: Its family is not supported; `check_supported` checks the same on its configuration.
    """
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer
    from timm.models import eva, vision_transformer

    if isinstance(visual, VisionTransformer) and visual.pool_type != "none":
        return VisionTransformerTower(visual)
    if isinstance(visual, ModifiedResNet):
        return ResNetTower(visual)
    trunk = visual.trunk if isinstance(visual, TimmModel) else visual
    if type(trunk) is vision_transformer.VisionTransformer and trunk.global_pool:
        return TimmTower(visual)
    if type(trunk) is eva.Eva and trunk.global_pool and not trunk.rope_mixed:
        return EvaTower(visual)
    raise UserError(f"image tower {type(trunk).__name__} is not supported; supported are {SUPPORTED}")
