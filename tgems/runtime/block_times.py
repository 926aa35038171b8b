"""Measure the parts of early exit on this machine, and derive an upper bound of the speed-up from them.

The parts are the stem, every block, the end, and one visit of every exit, each as a function of the batch size.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tgems.backbones.towers import Tower
from tgems.devices import autocast
from tgems.runtime.live_view import ExitDecider, LiveView

LEAST = 3


@dataclass(frozen=True)
class BlockTimes:
    """Seconds per call of the parts of early exit, at several batch sizes.

    Attributes:
        sizes: Batch sizes, ascending `S`.
        stem: Seconds of the stem `[S]`.
        blocks: Seconds of every block `[L, S]`.
        finish: Seconds of the frozen pooling and projection after the last block `[S]`.
        visits: Seconds of evaluating the policy at every exit before the last, if no image leaves `[E-1, S]`.
        heads: Seconds of embedding images that leave at every exit before the last `[E-1, S]`.
    """

    sizes: tuple[int, ...]
    stem: np.ndarray
    blocks: np.ndarray
    finish: np.ndarray
    visits: np.ndarray
    heads: np.ndarray

    def at(self, part: np.ndarray, n: int) -> np.ndarray:
        """Return the seconds of some parts `[..., S]` at a batch size `[...]`.

        They are interpolated linearly between the measured batch sizes, and grow in proportion beyond the largest; no
        batch takes less time than the smallest one measured. An empty batch takes no time.
        """
        if n == 0:
            return np.zeros(part.shape[:-1])
        if n >= self.sizes[-1]:
            return part[..., -1] * (n / self.sizes[-1])
        right = int(np.searchsorted(self.sizes, n, side="left"))
        if right == 0:
            return part[..., 0]
        low, high = self.sizes[right - 1], self.sizes[right]
        share = (n - low) / (high - low)
        return (1 - share) * part[..., right - 1] + share * part[..., right]


def batch_sizes_up_to(largest: int) -> tuple[int, ...]:
    """Return the powers of two below a batch size, and that batch size."""
    return (*(2**k for k in range(largest.bit_length()) if 2**k < largest), largest)


@torch.inference_mode()
def measure_block_times(
    tower: Tower,
    decider: ExitDecider,
    largest: int,
    seconds: float,
    dtype: str = "float32",
    device: str = "cpu",
) -> BlockTimes:
    """Measure the parts of early exit.

    The parts are timed in the course of whole passes through the encoder, so that each block finds the CPU's caches as
    the previous block left them. The batch sizes alternate, and results are medians over rounds.

    Args:
        tower: Image tower in eval mode, on the device.
        decider: Policy and modules, which are evaluated at all exits; no image leaves.
        largest: Largest batch size.
        seconds: Duration of the measurement; at least three rounds are measured.
        dtype: `float32`, or `bfloat16` for autocast.
        device: Device of the tower.
    """
    sizes = batch_sizes_up_to(largest)
    images = torch.randn(largest, 3, *tower.image_size, device=device)
    rounds: dict[int, list[np.ndarray]] = {n: [] for n in sizes}
    with autocast(device, dtype):
        _walk(tower, decider, images[:1], device)
        start = time.perf_counter()
        while len(rounds[sizes[-1]]) < LEAST or time.perf_counter() - start < seconds:
            for n in sizes:
                rounds[n].append(_walk(tower, decider, images[:n], device))
    medians = np.stack([np.median(rounds[n], axis=0) for n in sizes], axis=-1)
    exits = len(decider.costs.blocks) - 1
    stem, blocks, finish, visits, heads = np.split(medians, np.cumsum((1, tower.depth, 1, exits)))
    return BlockTimes(sizes, stem[0], blocks, finish[0], visits, heads)


def _walk(tower: Tower, decider: ExitDecider, images: Tensor, device: str) -> np.ndarray:
    """Run the encoder once, and return the seconds of stem, blocks, end, visits and heads `[1 + L + 1 + 2 (E-1)]`."""
    asked = {decider.costs.blocks[k] - 1: k for k in decider.asked}
    blocks, (visits, heads) = np.zeros(tower.depth), np.zeros((2, len(decider.costs.blocks) - 1))
    everyone = torch.arange(len(images), device=device)
    memory: dict[str, Tensor] = {}

    def timed(call: Callable[[], Any]) -> tuple[Any, float]:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        result = call()
        if device == "cuda":
            torch.cuda.synchronize()
        return result, time.perf_counter() - start

    state, stem = timed(lambda: tower.stem(images))
    for k in range(tower.depth):
        state, blocks[k] = timed(lambda k=k, state=state: tower.block(k, state))
        if k in asked:
            view = LiveView(asked[k], decider, tower, state, memory)
            _, visits[asked[k]] = timed(lambda view=view: bool(decider.leaving(view).any()))
            _, heads[asked[k]] = timed(lambda view=view: view.embed(everyone))
    _, finish = timed(lambda: tower.finish(state))
    return np.array([stem, *blocks, finish, *visits, *heads])


def early_seconds(times: BlockTimes, exits: np.ndarray, blocks: Sequence[int], chunk: int) -> float:
    """Return the seconds of one call if evaluating policies, embedding at exits and repacking images took no time.

    Images are kept in chunks and repacked as `tgems.runtime.engine` does.

    Args:
        times: Times of the parts.
        exits: Exit (0-based) that each image takes `[n]`.
        blocks: Blocks after which images may leave, 1-based and ascending; the last is L.
        chunk: Largest number of images per forward pass.
    """
    under_way = _under_way(np.asarray(blocks)[exits], len(times.blocks), chunk)
    seconds = times.at(times.stem, len(exits))
    for own, chunks in zip(times.blocks, under_way, strict=True):
        seconds = seconds + sum(times.at(own, len(part)) for part in chunks)
    whole = [part[part == len(times.blocks)] for part in under_way[-1]]
    return float(seconds + sum(times.at(times.finish, len(part)) for part in whole))


def asking_seconds(
    times: BlockTimes, exits: np.ndarray, blocks: Sequence[int], chunk: int, asked: Sequence[int]
) -> tuple[float, float]:
    """Return the seconds of one call that are spent on evaluating the policy, and on the heads of images that leave.

    Args:
        times: Times of the parts.
        exits: See `early_seconds`.
        blocks: See `early_seconds`.
        chunk: See `early_seconds`.
        asked: Exits (0-based) before the last at which the policy is evaluated.
    """
    under_way = _under_way(np.asarray(blocks)[exits], blocks[-1], chunk)
    visits = heads = 0.0
    for k in asked:
        for part in under_way[blocks[k] - 1]:
            visits += float(times.at(times.visits[k], len(part)))
            heads += float(times.at(times.heads[k], int((part == blocks[k]).sum())))
    return visits, heads


def bound(times: BlockTimes, exits: np.ndarray, blocks: Sequence[int], chunk: int) -> float:
    """Return the speed-up over the full encoder that these exits would reach if all but blocks, stem and end were free.

    Args:
        times: Times of the parts.
        exits: Exit (0-based) that each image takes, for several calls `[calls, n]`.
        blocks: See `early_seconds`.
        chunk: See `early_seconds`; the full encoder runs in such chunks too.
    """
    full = early_seconds(times, np.full(exits.shape[1], len(blocks) - 1), blocks, chunk)
    return full / statistics.fmean(early_seconds(times, call, blocks, chunk) for call in exits)


def _under_way(depths: np.ndarray, blocks: int, chunk: int) -> list[list[np.ndarray]]:
    """Return the chunks of images that run each block; an image is given by the number of blocks that it runs."""
    chunks, found = np.array_split(depths, -(-len(depths) // chunk)), []
    for block in range(blocks):
        chunks = _packed([part[part > block] for part in chunks], chunk)
        found.append(chunks)
    return found


def _packed(chunks: Sequence[np.ndarray], chunk: int) -> list[np.ndarray]:
    """Drop empty chunks, and pack the images of the others into fewer chunks if they fit."""
    left = [part for part in chunks if len(part)]
    fewest = -(-sum(map(len, left)) // chunk)
    return left if len(left) <= fewest else np.array_split(np.concatenate(left), fewest)
