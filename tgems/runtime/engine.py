"""Run an image tower block by block and drop images as they leave. The only loop of early-exit execution.

Images are kept in chunks whose activations an allocator reuses; as images leave, chunks are packed anew. What an image
yields depends neither on its batch nor on its place in it, but for rounding. No activation is larger than the full
encoder's: blocks see at most the batch, and a chunk's old state is gone before the next chunk's turn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tgems.backbones.towers import Tower
from tgems.features.encode import summary_rows
from tgems.runtime.rules import ExitRule

# glibc maps allocations from 32 MiB on anew each time, and their page faults cost more than the products gain
REUSED_BYTES = 24 * 2**20


class Encoded(NamedTuple):
    """What early exit yields.

    Attributes:
        embeddings: Unit, `[n, D]`.
        exits: Which of the exits each image took `[n]` int64; the last is `len(blocks) - 1`.
    """

    embeddings: Tensor
    exits: Tensor


class Sizes(NamedTuple):
    """Dimensions of the inputs and outputs of heads and gates.

    Attributes:
        width: Numbers of one part of a summary, padding included.
        grid: The g of the g x g grid of means in a summary; 0 without one.
        embed: `D`.
    """

    width: int
    grid: int
    embed: int


class Chunk(NamedTuple):
    """Images under way: their state, and their places in the batch."""

    state: Tensor
    places: Tensor


def encode_early(
    tower: Tower,
    rule: ExitRule,
    images: Tensor,
    blocks: Sequence[int],
    looked: Sequence[int],
    sizes: Sizes,
    last_resort: int | None = None,
    chunk: int | None = None,
    planned: Tensor | None = None,
) -> Encoded:
    """Encode a batch.

    Args:
        tower: Frozen.
        rule: When to leave.
        images: `[n, 3, h, w]`.
        blocks: Exits, 1-based, ascending; the last is L.
        looked: Exits (0-based) at which the rule is asked, ascending.
        sizes: Of summaries and embeddings.
        last_resort: Exit of `looked` at which whoever is left must leave; None for the last, by the encoder's own end.
        chunk: Images of a forward pass; None for `default_chunk`.
        planned: Exits `[n]` to take in place of those that the rule says, which is asked all the same: for measuring.
    """
    batch = _Batch.of(len(images), len(blocks), tower, rule, sizes, planned, images.device)
    if not len(images):
        return Encoded(batch.out, batch.exits)
    state = tower.stem(images)
    size = chunk or default_chunk(state)
    chunks = cut(state, torch.arange(len(images), device=images.device), size)
    del state  # chunks alone hold it from here on, so that it goes as they move on
    asked = {blocks[i] - 1: i for i in looked}
    for k in range(tower.depth):
        exit_ = asked.get(k)
        for i in range(len(chunks)):
            chunks[i] = Chunk(tower.block(k, chunks[i].state), chunks[i].places)
            if exit_ is not None:
                chunks[i] = batch.leave(chunks[i], exit_, exit_ == last_resort)
        chunks = repacked([c for c in chunks if len(c.places)], size)
        if not chunks:
            return Encoded(batch.out, batch.exits)
    for c in chunks:
        batch.out[c.places] = F.normalize(tower.finish(c.state).float(), dim=-1)
    return Encoded(batch.out, batch.exits)


@dataclass(frozen=True)
class _Batch:
    """What a batch has yielded so far, and how its images leave."""

    tower: Tower
    rule: ExitRule
    sizes: Sizes
    planned: Tensor | None
    out: Tensor
    exits: Tensor

    @classmethod
    def of(cls, n: int, n_exits: int, tower: Tower, rule: ExitRule, sizes: Sizes, planned, device) -> "_Batch":
        """Nothing yet, and everybody at the last exit."""
        out, exits = torch.empty(n, sizes.embed, device=device), torch.full((n,), n_exits - 1, device=device)
        return cls(tower, rule, sizes, planned, out, exits)

    def leave(self, chunk: Chunk, exit_: int, must: bool) -> Chunk:
        """Write what leaves at an exit; the rest of the chunk. Heads and gates keep their precision under autocast."""
        with torch.autocast(chunk.state.device.type, enabled=False):
            summaries = summary_rows(self.tower, chunk.state, self.sizes.width, [self.sizes.grid])
            mask, embed = self.rule.leaving(exit_, summaries.to(self.rule.dtype))
            if self.planned is not None:
                mask = self.planned[chunk.places] == exit_
            if must:
                mask = torch.ones_like(mask)
            leaving = mask.nonzero().squeeze(1)  # the one synchronisation of an exit
            if not len(leaving):
                return chunk
            gone = chunk.places[leaving]
            self.out[gone] = embed(leaving).to(self.out.dtype)
        self.exits[gone] = exit_
        if len(leaving) == len(mask):
            return Chunk(chunk.state[:0], chunk.places[:0])
        stay = (~mask).nonzero().squeeze(1)
        return Chunk(chunk.state[stay], chunk.places[stay])


def cut(state: Tensor, places: Tensor, size: int) -> list[Chunk]:
    """As few chunks as `size` allows, of nearly equal length; views, not copies."""
    parts = -(-len(places) // size)
    return [Chunk(s, p) for s, p in zip(state.tensor_split(parts), places.tensor_split(parts), strict=True)]


def repacked(chunks: list[Chunk], size: int) -> list[Chunk]:
    """Fewer chunks, where the images left fit into fewer."""
    total = sum(len(c.places) for c in chunks)
    if len(chunks) <= -(-total // size):
        return chunks
    state, places = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    return cut(state, places, size)


def default_chunk(state: Tensor) -> int:
    """Images of a forward pass: on a CPU as many as keep the widest activation in reused memory; elsewhere all."""
    if state.device.type != "cpu":
        return len(state)
    widest = 4 * math.prod(state.shape[1:]) * state.element_size()
    return max(1, REUSED_BYTES // widest)
