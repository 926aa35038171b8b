"""Run an image tower block by block on one batch, and drop images as they leave.

Images are kept in chunks whose activations fit into memory that the allocator reuses, and chunks are repacked as images
leave. Except for rounding, the result of an image depends neither on its batch nor on its place in it. No activation is
larger than that of the full encoder: a block sees at most the batch, and the old state of a chunk is freed before the
next chunk is run.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tgems.backbones.states import State, tensors_of
from tgems.backbones.towers import Tower
from tgems.runtime.leaving import Chunk, Exits, Left, joined
from tgems.runtime.live_view import ExitDecider

# glibc maps new pages for each allocation from 32 MiB on; their page faults cost more than larger products gain
REUSED_BYTES = 24 * 2**20


class Encoded(NamedTuple):
    """Images encoded with early exit.

    Attributes:
        embeddings: Unit vectors `[n, D]`.
        exits: Which of the exits each image took `[n]` int64; the last is `len(blocks) - 1`.
    """

    embeddings: Tensor
    exits: Tensor

    def write(self, left: Left) -> None:
        """Write the results of images that have left, in place."""
        self.embeddings.index_copy_(0, left.places, left.embeddings)
        self.exits.index_fill_(0, left.places, left.exit_index)


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
        planned: Exits `[n]` to take instead of the policy's, which is still evaluated; for measuring speed.
    """
    costs, n = decider.costs, len(images)
    embeddings = torch.empty(n, costs.embed_dim, dtype=torch.float32, device=images.device)
    encoded = Encoded(embeddings, torch.empty(n, dtype=torch.int64, device=images.device))
    if not n:
        return encoded
    state = tower.stem(images)
    size = chunk or default_chunk(state)
    chunks = cut(Chunk(state, torch.arange(n, device=images.device)), size)
    del state  # only the chunks hold it from here on, so that it is freed as they move on
    exits, asked = Exits(tower, decider, last_resort, planned), {costs.blocks[k] - 1: k for k in decider.asked}
    for block in range(tower.depth):
        exit_index = asked.get(block)
        some_left = False
        for i, own in enumerate(chunks):
            own.state = tower.block(block, own.state)
            if exit_index is not None:
                left, chunks[i] = exits.let_leave(own, exit_index)
                if left is not None:
                    encoded.write(left)
                    some_left = True
        if some_left:
            del own
            chunks = repacked([c for c in chunks if len(c)], size)
            if not chunks:
                return encoded
    for c in chunks:
        encoded.write(exits.finish(c))
    return encoded


def cut(whole: Chunk, size: int) -> list[Chunk]:
    """Split images into as few chunks as `size` allows, of nearly equal length; they are views, not copies."""
    parts = -(-len(whole) // size)
    if parts == 1:
        return [whole]
    memory = {name: tensor.tensor_split(parts) for name, tensor in whole.memory.items()}
    pairs = zip(whole.state.tensor_split(parts), whole.places.tensor_split(parts), strict=True)
    return [Chunk(s, p, {name: split[i] for name, split in memory.items()}) for i, (s, p) in enumerate(pairs)]


def repacked(chunks: list[Chunk], size: int) -> list[Chunk]:
    """Pack images into fewer chunks if they fit."""
    total = sum(len(c) for c in chunks)
    if len(chunks) <= -(-total // size):
        return chunks
    return cut(joined(chunks), size)


def default_chunk(state: State) -> int:
    """Return the number of images per forward pass: on a CPU as many as fit in reused memory, elsewhere all."""
    if state.device.type != "cpu":
        return len(state)
    largest = tensors_of(state)[0]
    widest = 4 * math.prod(largest.shape[1:]) * largest.element_size()
    return max(1, REUSED_BYTES // widest)
