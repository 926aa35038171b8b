"""Choose the exits at which a policy is evaluated by measured time instead of MACs (docs/method.md#speed).

Evaluating a policy is cheap in MACs, but on a small encoder, or for a single image, it takes a considerable part of the
time of a block. The module calls it *asking* an exit, as the column `asked` does.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tgems.backbones.towers import Tower
from tgems.exits.losses import exit_weights
from tgems.runtime.block_times import BlockTimes, asking_seconds, early_seconds, measure_block_times
from tgems.runtime.drawn_exits import draw_exits
from tgems.runtime.early_exit import EarlyExit
from tgems.runtime.engine import default_chunk
from tgems.runtime.live_view import ExitDecider

SHARE = 0.05
IMAGES = 64
SECONDS = 3.0
START = 0.75  # cost of the first exit, as a share of the target, where not all exits are asked

Prices = Callable[[tuple[int, ...]], np.ndarray]
"""Function that maps the exits that are asked to the relative cost `[E]` of leaving at every exit."""


@dataclass(frozen=True)
class ChosenExits:
    """Exits chosen by time, and what to expect of them.

    Attributes:
        asked: Exits (0-based), ascending.
        share: Share of the time that is spent on asking them.
        speedup: Speed-up over the full encoder, heads and asking included.
    """

    asked: tuple[int, ...]
    share: float
    speedup: float


def exits_by_time(
    times: BlockTimes,
    prices: Prices,
    blocks: Sequence[int],
    target: float,
    batch_size: int,
    chunk: int,
    share: float = SHARE,
) -> ChosenExits:
    """Choose as many exits as possible for which asking takes at most a given share of the time, and at least one.

    All exits before the last are tried first, and then fewer and fewer, spread evenly over costs from three quarters of
    the target up to the whole encoder. The cheapest of them must cost no more than the target, since otherwise the
    target could not be met. Times are those of exits drawn from the distribution of highest entropy that meets the
    target.

    Args:
        times: Seconds of the parts, measured on the machine.
        prices: Costs of the policy's exits.
        blocks: Blocks after which images may leave, 1-based and ascending; the last is L.
        target: Mean rate.
        batch_size: Number of images per call.
        chunk: Largest number of images per forward pass.
        share: Largest share of the time for asking.
    """
    found = None
    for asked in _candidates(prices, target):
        found = _expected(times, prices(asked), blocks, target, batch_size, chunk, asked)
        if found.share <= share:
            return found
    if found is None:  # no exit is cheap enough, as fitting thresholds will say
        found = _expected(times, prices((0,)), blocks, target, batch_size, chunk, (0,))
    return found


@torch.no_grad()
def measured_exits(
    tower: Tower, early: EarlyExit, bank: Tensor | None, scale: float, target: float, batch_size: int, device: str
) -> ChosenExits:
    """Measure a T-GEM on this machine, and choose its exits for a mean rate.

    Args:
        tower: Image tower, on the device.
        early: The T-GEM, all of whose exits are measured.
        bank: Unit text embeddings `[M, D]` that the policy looks at, or None.
        scale: Logit scale of the backbone.
        target: Mean rate.
        batch_size: Number of images per call.
        device: Type of the device.
    """
    costs = early.costs
    every = tuple(range(len(costs.blocks) - 1))
    thresholds = dict.fromkeys(every, float("inf"))
    decider = ExitDecider(early.policy, costs, early.heads, early.gates, thresholds, every, scale, bank)
    chunk = default_chunk(tower.stem(torch.zeros(1, 3, *tower.image_size, device=device)))
    chunk = batch_size if device != "cpu" else chunk
    times = measure_block_times(tower, decider, min(chunk, batch_size), SECONDS, device=device)
    prices = partial(early.policy.costs, costs, 0 if bank is None else len(bank))
    return exits_by_time(times, prices, costs.blocks, target, batch_size, chunk)


def spread_exits(rates: np.ndarray, target: float, number: int) -> tuple[int, ...]:
    """Return at most this number of exits, nearest to costs spread evenly from three quarters of the target up to 1.

    Args:
        rates: Relative cost of leaving at every exit `[E]`.
        target: Mean rate.
        number: Number of exits before the last; fewer are returned where two would be the same.
    """
    wanted = START * target + (1 - START * target) * np.arange(number) / number
    nearest = np.abs(rates[None, :-1] - wanted[:, None]).argmin(1)
    return tuple(sorted(set(nearest.tolist())))


def draw_among(rates: np.ndarray, asked: Sequence[int], target: float, n: int) -> np.ndarray:
    """Draw exits `[n]` among some and the last, from the distribution of highest entropy with a mean rate.

    Args:
        rates: Relative cost of leaving at every exit `[E]`.
        asked: Exits (0-based) before the last.
        target: Mean rate.
        n: Number of images.
    """
    every = np.array([*asked, len(rates) - 1])
    weights = exit_weights(torch.from_numpy(rates[every]).float(), target).numpy()
    return every[draw_exits(weights, n)]


def _candidates(prices: Prices, target: float) -> Iterator[tuple[int, ...]]:
    """Yield sets of exits that can meet the target, from many to few."""
    before_last = len(prices(())) - 1
    seen = set()
    for asked in (
        tuple(range(before_last)),
        *(spread_exits(prices(()), target, number) for number in reversed(range(1, before_last))),
    ):
        if asked not in seen and prices(asked)[asked[0]] <= target:
            seen.add(asked)
            yield asked


def _expected(
    times: BlockTimes,
    rates: np.ndarray,
    blocks: Sequence[int],
    target: float,
    batch_size: int,
    chunk: int,
    asked: tuple[int, ...],
) -> ChosenExits:
    """Return what to expect of asking these exits."""
    calls = max(1, IMAGES // batch_size)
    drawn = draw_among(rates, asked, target, calls * batch_size).reshape(calls, batch_size)
    full = early_seconds(times, np.full(batch_size, len(blocks) - 1), blocks, chunk)
    run = statistics.fmean(early_seconds(times, exits, blocks, chunk) for exits in drawn)
    spent = np.mean([asking_seconds(times, exits, blocks, chunk, asked) for exits in drawn], axis=0)
    whole = run + float(spent.sum())
    return ChosenExits(asked, float(spent[0]) / whole, full / whole)
