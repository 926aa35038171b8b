"""Encode a stream of images in full batches: images that go on after an exit wait there until a batch is full.

The encoder is cut into stages at the exits where the policy is evaluated, and there is a buffer before each stage. A
stage runs when its buffer holds a full batch, whichever batches the images came from, so that a block costs as little
per image as in the full encoder. The deepest full buffer is run first, which bounds what waits. Buffers are queues, so
that images that are deeper in the encoder came earlier. The result of an image is that of `encode_early`, except for
rounding.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from tgems.backbones.states import tensors_of
from tgems.backbones.towers import Tower
from tgems.errors import UserError
from tgems.runtime.engine import Encoded, default_chunk
from tgems.runtime.leaving import Chunk, Exits, Left, joined
from tgems.runtime.live_view import ExitDecider

WAITING = 8
"""Number of batches whose images may wait in all buffers together; beyond it, the fullest buffer runs early."""
AHEAD = 64
"""Number of batches by which images may be ahead of the oldest one in the encoder; beyond it, the oldest goes on."""


def encode_stream(
    tower: Tower,
    decider: ExitDecider,
    batches: Iterable[Tensor],
    batch_size: int,
    last_resort: int | None = None,
    chunk: int | None = None,
    planned: Tensor | None = None,
) -> Iterator[Encoded]:
    """Encode a stream of batches, and yield their results in order.

    Between two forward passes of B images, at most B - 1 wait in each of the buffers before S + 1 stages, if the policy
    is evaluated at S exits, and at most `WAITING` B in all of them. While a stage runs, B more are under way, and the
    next buffer may grow to one image less than two batches. Images wait as the state between two blocks, which for a
    Vision Transformer is about a tenth of what a forward pass of as many images needs, and before the first block as
    pixels.

    Args:
        tower: Image tower of a frozen model.
        decider: Decides which images leave.
        batches: Images `[n, 3, h, w]`, on the tower's device; n may vary, and may be 0.
        batch_size: Largest number of images per forward pass; B is the smaller one of it and `chunk`.
        last_resort: Exit (0-based) at which all remaining images must leave; None for the encoder's own end.
        chunk: Another limit; None for `default_chunk`.
        planned: Exits of all images of the stream to take instead of the policy's; see `Exits`.

    Yields:
        The results of each batch, in the order of the input. They wait for the oldest image in the encoder; no image
        enters that comes more than `AHEAD` B images after it.

    Raises:
        UserError: The batch size is below 1, or the policy looks at a text bank, and none was set.
    """
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size}: a forward pass takes at least 1 image")
    stages, results = None, _InOrder(decider.costs.embed_dim)
    for images in batches:
        first = results.expect(images)
        if len(images):
            if stages is None:
                exits = Exits(tower, decider, last_resort, planned)
                stages = _Stages(exits, _images_per_pass(tower, images, batch_size, chunk), results)
            stages.let_in(images, first)
        yield from results.ready()
    if stages is not None:
        stages.let_out()
    yield from results.ready()


def _images_per_pass(tower: Tower, images: Tensor, batch_size: int, chunk: int | None) -> int:
    if chunk is None and images.device.type == "cpu":
        chunk = default_chunk(tower.stem(images[:1]))
    return min(batch_size, chunk or batch_size)


class _InOrder:
    """Collects results by place, and returns them batch by batch in the order of the input."""

    def __init__(self, dim: int):
        self.dim = dim
        self.batches: deque[tuple[int, torch.device]] = deque()
        self.done: dict[int, tuple[Tensor, int]] = {}
        self.next = 0  # place of the next image of the input
        self.oldest = 0  # place of the first image that is not done

    def expect(self, images: Tensor) -> int:
        """Announce a batch, and return the place of its first image."""
        self.batches.append((len(images), images.device))
        first, self.next = self.next, self.next + len(images)
        return first

    def put(self, left: Left) -> None:
        """Store the results of images that have left."""
        for place, embedding in zip(left.places.tolist(), left.embeddings.unbind(), strict=True):
            self.done[place] = embedding, left.exit_index
        while self.oldest in self.done:
            self.oldest += 1

    def ready(self) -> Iterator[Encoded]:
        """Yield the results of batches all of whose images are done."""
        first = self.next - sum(n for n, _ in self.batches)
        while self.batches and first + self.batches[0][0] <= self.oldest:
            n, device = self.batches.popleft()
            rows = [self.done.pop(place) for place in range(first, first + n)]
            first += n
            embeddings = torch.empty(n, self.dim, dtype=torch.float32, device=device)
            if n:
                torch.stack([embedding for embedding, _ in rows], out=embeddings)
            exits = torch.tensor([exit_index for _, exit_index in rows], dtype=torch.int64, device=device)
            yield Encoded(embeddings, exits)


class _Queue:
    """Images that wait before a stage, first in, first out."""

    def __init__(self):
        self.chunks: deque[Chunk] = deque()
        self.images = 0

    def put(self, chunk: Chunk) -> None:
        """Add images at the end."""
        self.chunks.append(chunk)
        self.images += len(chunk)

    def take(self, n: int) -> Chunk:
        """Remove the first n images, or all if there are fewer; the rest of a chunk is copied, to free its memory."""
        taken = []
        while n and self.chunks:
            chunk = self.chunks.popleft()
            if len(chunk) > n:
                self.chunks.appendleft(chunk.select(torch.arange(n, len(chunk), device=chunk.places.device)))
                chunk = chunk.select(slice(n))
            taken.append(chunk)
            n -= len(chunk)
            self.images -= len(chunk)
        return joined(taken)


class _Stages:
    """The encoder in stages, each with the images that wait before it."""

    def __init__(self, exits: Exits, size: int, results: _InOrder):
        self.exits, self.size, self.results = exits, size, results
        asked, tower = exits.decider.asked, exits.tower
        ends = [exits.decider.costs.blocks[k] for k in asked] + [tower.depth]
        self.stages = list(zip([0, *ends[:-1]], ends, [*asked, None], strict=True))
        self.queues = [_Queue() for _ in self.stages]

    def let_in(self, images: Tensor, first: int) -> None:
        """Add images whose places begin at `first`, and run stages until the remaining ones may wait."""
        for start in range(0, len(images), self.size):
            part = images[start : start + self.size]
            if len(part) < self.size:
                part = part.clone()  # a copy, since the caller may reuse the memory while it waits
            places = torch.arange(first + start, first + start + len(part), device=images.device)
            self.queues[0].put(Chunk(part, places))
            newest = first + start + len(part)
            while (stage := self._due(newest)) is not None:
                self._run(stage)

    def let_out(self) -> None:
        """Run stages until no image is left: full ones at once, else the shallowest first, so that batches fill up."""
        while waiting := [i for i, queue in enumerate(self.queues) if queue.images]:
            full = [i for i in waiting if self.queues[i].images >= self.size]
            self._run(full[-1] if full else waiting[0])

    def _due(self, newest: int) -> int | None:
        """Return the stage that must run before another image is let in, or None."""
        waiting = [queue.images for queue in self.queues]
        full = [i for i, n in enumerate(waiting) if n >= self.size]
        if full:
            return full[-1]
        if newest - self.results.oldest > AHEAD * self.size:
            return max(i for i, n in enumerate(waiting) if n)  # the oldest image is the first one there
        if sum(waiting) > WAITING * self.size:
            return max(range(len(waiting)), key=lambda i: (waiting[i], i))
        return None

    def _run(self, stage: int) -> None:
        """Run a stage on the first images that wait before it."""
        first, last, exit_index = self.stages[stage]
        chunk = self.queues[stage].take(self.size)
        if first == 0:
            chunk.state = self.exits.tower.stem(tensors_of(chunk.state)[0])
        for block in range(first, last):
            chunk.state = self.exits.tower.block(block, chunk.state)
        if exit_index is None:
            self.results.put(self.exits.finish(chunk))
            return
        left, staying = self.exits.let_leave(chunk, exit_index)
        if left is not None:
            self.results.put(left)
        if len(staying):
            self.queues[stage + 1].put(staying)
