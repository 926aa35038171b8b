"""One threshold for all exits, and the mean rate that it gives. Pure functions of scores and costs."""

import numpy as np
import torch
from torch import Tensor

from tgems.errors import UserError


def choose_exits(scores: Tensor, threshold: Tensor | float) -> Tensor:
    """Return the first exit whose score exceeds its threshold, else the last: `[n, E-1]` -> `[n]`."""
    last = torch.ones(len(scores), 1, dtype=torch.bool)
    return torch.cat((scores > threshold, last), 1).int().argmax(1)


def fit_threshold(scores: Tensor, costs: np.ndarray, target: float) -> tuple[float, float]:
    """Find the threshold whose mean rate comes closest to the target without exceeding it.

    The rate grows with the threshold, so that bisection over the distinct scores is exact.

    Args:
        scores: Validation scores `[n, E-1]` float64.
        costs: Relative cost of each exit `[E]`.
        target: Mean rate not to be exceeded.

    Returns:
        The threshold, midway between adjacent distinct finite scores, and the mean rate it gives. If even the lowest
        threshold costs more than the target, that threshold and its rate.

    Raises:
        UserError: No score is finite.
    """
    price = torch.from_numpy(costs)
    values = scores[scores.isfinite()].unique()
    if not len(values):
        raise UserError("no exit has a finite score, so that no threshold can be fitted; add exits")
    middles = (values[1:] + values[:-1]) / 2
    candidates = torch.cat((values[:1] - 1, middles, values[-1:] + 1))

    def rate(index: int) -> float:
        return price[choose_exits(scores, candidates[index])].mean().item()

    low, high = 0, len(candidates) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if rate(middle) <= target + 1e-12 else (low, middle - 1)
    return candidates[low].item(), rate(low)


def threshold_path(scores: Tensor, costs: np.ndarray, points: int) -> list[float]:
    """Return at most `points` thresholds, from expensive to cheap, at evenly spaced mean rates.

    An image spends what lies between two exits if none of its scores up to the first of them exceeds the threshold, so
    that the mean rate is a sum over these largest scores.

    Args:
        scores: Validation scores `[n, E-1]` float64.
        costs: Relative cost of each exit `[E]`.
        points: Number of thresholds; equal ones are returned once.
    """
    largest = np.maximum.accumulate(scores.numpy(), axis=1)
    order = np.argsort(largest, axis=None, kind="stable")
    values = largest.flatten()[order]
    spent = np.broadcast_to(np.diff(costs), largest.shape).flatten()[order].cumsum() / len(scores)
    parting = np.flatnonzero(np.isfinite(values[:-1]) & (values[:-1] < values[1:]))
    if not len(parting):
        return []
    levels = np.linspace(spent[-1], spent[parting[0]], points + 1)[1:]
    reached = np.maximum.accumulate(spent[parting])
    chosen = parting[np.clip(np.searchsorted(reached, levels + 1e-12, side="right") - 1, 0, None)]
    middles = (values[chosen] + values[chosen + 1]) / 2
    return list(dict.fromkeys(middles.tolist()))
