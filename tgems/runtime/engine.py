"""Run an image tower block by block and drop images as they leave. The only loop of early-exit execution.

Images are kept in chunks whose activations an allocator reuses; as images leave, chunks are packed anew. The result of
an image depends neither on its batch nor on its place in it, except for rounding. No activation is larger than the full
encoder's: blocks see at most the batch, and a chunk's old state is gone before the next chunk's turn.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tgems.backbones.states import State, concatenate, select, tensors_of
from tgems.backbones.towers import Tower
from tgems.runtime.live_view import ExitDecider, LiveView

# glibc maps allocations from 32 MiB on anew each time, and their page faults cost more than the products gain
REUSED_BYTES = 24 * 2**20


class Encoded(NamedTuple):
    """Images encoded with early exit.

    Attributes:
        embeddings: Unit vectors `[n, D]`.
        exits: Which of the exits each image took `[n]` int64; the last is `len(blocks) - 1`.
    """

    embeddings: Tensor
    exits: Tensor


@dataclass(slots=True)
class Chunk:
    """Images on their way.

    Attributes:
        state: The tower's state, images first.
        places: Places of the images in the batch `[n]` int64.
        memory: What the policy remembers of them, by name `[n, ...]`.
    """

    state: State
    places: Tensor
    memory: dict[str, Tensor] = field(default_factory=dict)

    def select(self, rows: Tensor | slice) -> "Chunk":
        """Return some of the images: copies of these rows, or a view if they are a slice."""
        if isinstance(rows, slice):
            return Chunk(self.state[rows], self.places[rows], {k: v[rows] for k, v in self.memory.items()})
        memory = {name: tensor.index_select(0, rows) for name, tensor in self.memory.items()}
        return Chunk(select(self.state, rows), self.places.index_select(0, rows), memory)


def encode_early(
    tower: Tower,
    decider: ExitDecider,
    images: Tensor,
    last_resort: int | None = None,
    chunk: int | None = None,
    planned: Tensor | None = None,
) -> Encoded:
    """Encode a batch.

    Args:
        tower: Image tower of a frozen model.
        decider: Decides which images leave.
        images: `[n, 3, h, w]`.
        last_resort: Exit (0-based) at which all remaining images must leave; None for the encoder's own end.
        chunk: Number of images per forward pass; None for `default_chunk`.
        planned: Exits `[n]` to take instead of the policy's, which is asked all the same: for measuring speed.
    """
    costs, n = decider.costs, len(images)
    embeddings = torch.empty(n, costs.embed_dim, device=images.device)
    exits = torch.full((n,), len(costs.blocks) - 1, dtype=torch.int64, device=images.device)
    batch = _Batch(tower, decider, planned, embeddings, exits)
    if not n:
        return Encoded(batch.embeddings, batch.exits)
    state = tower.stem(images)
    size = chunk or default_chunk(state)
    chunks = cut(Chunk(state, torch.arange(n, device=images.device)), size)
    del state  # only the chunks hold it from here on, so that it is freed as they move on
    asked = {costs.blocks[k] - 1: k for k in decider.asked}
    for block in range(tower.depth):
        exit_index = asked.get(block)
        left = False
        for i, own in enumerate(chunks):
            own.state = tower.block(block, own.state)
            if exit_index is not None:
                chunks[i] = batch.let_leave(own, exit_index, exit_index == last_resort)
                left |= chunks[i] is not own
        if left:
            del own
            chunks = repacked([c for c in chunks if len(c.places)], size)
            if not chunks:
                return Encoded(batch.embeddings, batch.exits)
    for c in chunks:
        batch.embeddings.index_copy_(0, c.places, F.normalize(tower.finish(c.state).float(), dim=-1))
    return Encoded(batch.embeddings, batch.exits)


@dataclass(frozen=True)
class _Batch:
    """A batch under way: its results so far, and what decides."""

    tower: Tower
    decider: ExitDecider
    planned: Tensor | None
    embeddings: Tensor
    exits: Tensor

    def let_leave(self, chunk: Chunk, exit_index: int, must: bool) -> Chunk:
        """Write the results of images that leave at an exit, and return the others; the same chunk if none leaves."""
        view = LiveView(exit_index, self.decider, self.tower, chunk.state, chunk.memory)
        mask = self.decider.leaving(view)
        if self.planned is not None:
            mask = self.planned.index_select(0, chunk.places) == exit_index
        if must:
            mask = torch.ones_like(mask)
        if mask.device.type == "cpu" and not mask.any():  # elsewhere that would be a synchronisation of its own
            return chunk
        leaving = mask.nonzero().squeeze(1)  # the one synchronisation of an exit
        if not len(leaving):
            return chunk
        everyone = len(leaving) == len(mask)
        places = chunk.places if everyone else chunk.places.index_select(0, leaving)
        self.embeddings.index_copy_(0, places, view.embed(leaving).to(self.embeddings.dtype))
        self.exits.index_fill_(0, places, exit_index)
        return chunk.select(slice(0)) if everyone else chunk.select((~mask).nonzero().squeeze(1))


def cut(whole: Chunk, size: int) -> list[Chunk]:
    """Cut into as few chunks as `size` allows, of nearly equal length; views, not copies."""
    parts = -(-len(whole.places) // size)
    if parts == 1:
        return [whole]
    memory = {name: tensor.tensor_split(parts) for name, tensor in whole.memory.items()}
    pairs = zip(whole.state.tensor_split(parts), whole.places.tensor_split(parts), strict=True)
    return [Chunk(s, p, {name: split[i] for name, split in memory.items()}) for i, (s, p) in enumerate(pairs)]


def repacked(chunks: list[Chunk], size: int) -> list[Chunk]:
    """Pack images into fewer chunks if they fit."""
    total = sum(len(c.places) for c in chunks)
    if len(chunks) <= -(-total // size):
        return chunks
    state, places = concatenate([c.state for c in chunks]), torch.cat([c.places for c in chunks])
    memory = {name: torch.cat([c.memory[name] for c in chunks]) for name in chunks[0].memory}
    return cut(Chunk(state, places, memory), size)


def default_chunk(state: State) -> int:
    """Return the number of images per forward pass: on a CPU as many as fit in reused memory, elsewhere all."""
    if state.device.type != "cpu":
        return len(state)
    largest = tensors_of(state)[0]
    widest = 4 * math.prod(largest.shape[1:]) * largest.element_size()
    return max(1, REUSED_BYTES // widest)
