"""Hold the mean rate of a stream of images: move all thresholds together, by the costs of the images seen so far.

Needs no labels. Pure numpy; the evaluation and the runtime use the same code (docs/method.md#holding-a-rate).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

GAIN = 0.15
"""Movement of the thresholds, in units of the spread of the scores, for each full encoder of computation too much."""
LEARNING = 0.04
"""Share of that movement, per image, that becomes permanent."""
RANGE = 6.0
"""Offset in units of the spread at which all images leave at the first open exit, or none leaves early."""
SLOWED = 8
"""Number of images in an update above which the gain falls, since feedback on larger batches comes late."""


@dataclass(frozen=True)
class HeldRate:
    """State of the controller, which is replaced by `after`; fields are arrays `[...]`, one value per stream.

    A proportional-integral controller in the manner of conformal PID control (Angelopoulos, Candès and Tibshirani,
    NeurIPS 2023, arXiv 2307.16895). Without `base` it is adaptive conformal inference with a constant step (Gibbs and
    Candès, NeurIPS 2021, arXiv 2106.00170), whose ancestor is the stochastic approximation of Robbins and Monro (1951).

    Attributes:
        target: Mean rate to hold.
        images: Number of images seen.
        debt: Sum over these images of rate minus target.
        base: Part of the offset that has been learned, in [-`RANGE`, `RANGE`].
        offset: Movement of all thresholds in units of the spread of the scores; the higher, the fewer images leave.
    """

    target: np.ndarray
    images: int
    debt: np.ndarray
    base: np.ndarray
    offset: np.ndarray

    @classmethod
    def start(cls, target: ArrayLike) -> "HeldRate":
        """Begin a stream with the thresholds as they were fitted."""
        wanted = np.asarray(target, dtype=np.float64)
        nothing = np.zeros_like(wanted)
        return cls(wanted, 0, nothing, nothing, nothing)

    @property
    def rate(self) -> np.ndarray:
        """Mean rate of the images seen `[...]`; NaN before the first."""
        return self.target + self.debt / self.images if self.images else np.full_like(self.target, np.nan)

    def after(self, rates: np.ndarray) -> "HeldRate":
        """Return the state after further images, which all met the same thresholds.

        Args:
            rates: Relative cost of each image `[..., n]`.
        """
        n = rates.shape[-1]
        if not n:
            return self
        counted = min(n, SLOWED)
        gain = GAIN * counted / n
        debt = self.debt + (rates - self.target[..., None]).sum(-1)
        base = np.clip(self.base - LEARNING * counted * gain * debt, -RANGE, RANGE)
        offset = np.clip(base - gain * debt, -RANGE, RANGE)
        return HeldRate(self.target, self.images + n, debt, base, offset)


def unreachable(target: float, cheapest: float, dearest: float) -> str:
    """Return why a mean rate cannot be held by moving thresholds; empty if it can.

    Args:
        target: Mean rate to hold.
        cheapest: Relative cost of leaving at the first open exit.
        dearest: Relative cost of an image that never leaves early.
    """
    if cheapest <= target <= dearest:
        return ""
    return f"rate {target:g} cannot be held: images cost from {cheapest:.4f} to {dearest:.4f} of the encoder"


def moved_thresholds(thresholds: np.ndarray, spread: ArrayLike, offset: ArrayLike) -> np.ndarray:
    """Move thresholds by an offset; at either end of `RANGE`, all finite scores are on one side of them.

    Args:
        thresholds: Threshold of each exit `[..., E]`; +inf at an exit that is not visited, which stays so.
        spread: Unit of the offset `[...]` (`score_spread`).
        offset: Offset `[...]` (`HeldRate.offset`).

    Returns:
        `[..., E]`.
    """
    spread, offset = np.asarray(spread)[..., None], np.asarray(offset)[..., None]
    moved = np.where(np.abs(offset) < RANGE, thresholds + spread * offset, np.copysign(np.inf, offset))
    return np.where(np.isposinf(thresholds), np.inf, moved)


def score_spread(scores: np.ndarray) -> float:
    """Return the standard deviation of finite scores at all visited exits; 0 if there are none.

    Args:
        scores: Scores of validation images at the visited exits `[n, E]`.
    """
    finite = scores[np.isfinite(scores)]
    return float(finite.std()) if len(finite) else 0.0


def largest_debt(target: float, cheapest: float, dearest: float, batch: int = 1) -> float:
    """Bound the absolute value of `HeldRate.debt` for any finite scores in any order.

    Beyond a debt of 2 `RANGE` / gain, the learned part of the offset, which is at most `RANGE`, is outweighed: all
    images leave at the first open exit, or none leaves early, so that the debt shrinks. An update beyond that point is
    at most one batch long. Divided by the number of images, this bounds the distance of the mean rate to the target.
    It is the argument of Gibbs and Candès (2021, proposition 4.1), for a control that also learns.

    Args:
        target: Mean rate to hold, between `cheapest` and `dearest`.
        cheapest: Relative cost of leaving at the first open exit.
        dearest: Relative cost of an image that never leaves early.
        batch: Largest number of images between two updates.
    """
    gain = GAIN * min(batch, SLOWED) / batch
    return 2 * RANGE / gain + batch * max(target - cheapest, dearest - target)
