"""Images on their way through the encoder, and how they leave it; shared by both engines."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tgems.backbones.states import State, concatenate, select
from tgems.backbones.towers import Tower
from tgems.runtime.live_view import ExitDecider, LiveView


@dataclass(slots=True)
class Chunk:
    """Images on their way through the encoder.

    Attributes:
        state: The tower's state, images first.
        places: Places of the images in the batch or stream `[n]` int64.
        memory: Tensors that the policy remembers of them, by name `[n, ...]`.
    """

    state: State
    places: Tensor
    memory: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.places)

    def select(self, rows: Tensor | slice) -> "Chunk":
        """Return some of the images: copies of these rows, or a view if they are a slice."""
        if isinstance(rows, slice):
            return Chunk(self.state[rows], self.places[rows], {k: v[rows] for k, v in self.memory.items()})
        memory = {name: tensor.index_select(0, rows) for name, tensor in self.memory.items()}
        return Chunk(select(self.state, rows), self.places.index_select(0, rows), memory)


def joined(chunks: Sequence[Chunk]) -> Chunk:
    """Return one chunk of all images, which have passed the same exits."""
    if len(chunks) == 1:
        return chunks[0]
    state, places = concatenate([c.state for c in chunks]), torch.cat([c.places for c in chunks])
    return Chunk(state, places, {name: torch.cat([c.memory[name] for c in chunks]) for name in chunks[0].memory})


class Left(NamedTuple):
    """Images that have left the encoder.

    Attributes:
        places: Their places `[m]` int64.
        embeddings: Unit vectors `[m, D]` float32.
        exit_index: The exit that they took (0-based).
    """

    places: Tensor
    embeddings: Tensor
    exit_index: int


@dataclass(frozen=True)
class Exits:
    """The exits of an encoder, and the decision which images leave there.

    Attributes:
        tower: Image tower of a frozen model.
        decider: Decides which images leave.
        last_resort: Exit (0-based) at which all remaining images must leave; None for the encoder's own end.
        planned: Exits by place to take instead of the policy's, which is still evaluated; for measuring speed.
    """

    tower: Tower
    decider: ExitDecider
    last_resort: int | None = None
    planned: Tensor | None = None

    def let_leave(self, chunk: Chunk, exit_index: int) -> tuple[Left | None, Chunk]:
        """Return the images that leave at an exit before the last, None if there are none, and the others."""
        view = LiveView(exit_index, self.decider, self.tower, chunk.state, chunk.memory)
        mask = self.decider.leaving(view)
        if self.planned is not None:
            mask = self.planned.index_select(0, chunk.places) == exit_index
        if exit_index == self.last_resort:
            mask = torch.ones_like(mask)
        if mask.device.type == "cpu" and not mask.any():  # on other devices this would be a synchronisation of its own
            return None, chunk
        leaving = mask.nonzero().squeeze(1)  # the one synchronisation of an exit
        if not len(leaving):
            return None, chunk
        everyone = len(leaving) == len(mask)
        places = chunk.places if everyone else chunk.places.index_select(0, leaving)
        left = Left(places, view.embed(leaving).float(), exit_index)
        return left, chunk.select(slice(0)) if everyone else chunk.select((~mask).nonzero().squeeze(1))

    def finish(self, chunk: Chunk) -> Left:
        """Return the images after the last block, which all leave."""
        embeddings = F.normalize(self.tower.finish(chunk.state).float(), dim=-1)
        return Left(chunk.places, embeddings, len(self.decider.costs.blocks) - 1)
