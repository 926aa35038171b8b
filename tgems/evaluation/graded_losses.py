"""Certify an operating point for losses between 0 and 1, such as the share of its neighbours that an image loses.

Two tests are at hand: bets on a few points, and the bound that is used for 0/1 losses too, on all points in order.
Losses of other images say which of them will let a cheaper point pass (docs/method.md#promises-of-quality).
"""

from collections.abc import Callable

import numpy as np

from tgems.evaluation.betting import best_bet, log_evidence
from tgems.evaluation.risk_control import allowed_losses, certified_points, enough_images

SAFETY = (4.0, 2.0, 1.0, 0.0, -1.0)
"""Standard errors by which the evidence that is expected at the points to bet on exceeds what is needed."""


def certified_point(
    expected: np.ndarray,
    losses_at: Callable[[int], np.ndarray],
    n: int,
    tolerance: float,
    upcoming: int,
    level: float,
) -> int:
    """Return the cheapest operating point for which a promise can be certified, or -1 if there is none.

    The probability that the promise is broken at the point that is returned is at most `level`, whatever was expected.

    Args:
        expected: Losses of images that points were fitted on `[m, J]`, points from expensive to cheap.
        losses_at: Losses of the other n images at a point `[n]`, always in the same random order.
        n: Number of the other images.
        tolerance: Mean loss of the next images that is promised not to be exceeded, in (0, 1).
        upcoming: Number of the next images.
        level: Probability that the promise may fail.
    """
    aim = (tolerance, upcoming)
    points, likely = candidates(expected, n, *aim, level)
    allowed = allowed_losses(n, *aim, level, binary=False)
    if certified_points(expected * (n / len(expected)), allowed) - 1 > likely:
        return certified_points(np.stack([losses_at(k) for k in range(expected.shape[1])], 1), allowed) - 1
    each = level / max(len(points), 1)
    for point in reversed(points):
        if _evidence(losses_at(point), expected[:, point].std(), *aim, each) >= np.log(1 / each):
            return point
    return -1


def candidates(expected: np.ndarray, n: int, tolerance: float, upcoming: int, level: float) -> tuple[list[int], int]:
    """Choose the points to bet on: those that will pass with more and less certainty.

    Returns:
        The points in order, and the last one that will pass if losses are as expected, or -1.
    """
    each = level / len(SAFETY)
    evidence = np.array([_evidence(np.resize(own, n), own.std(), tolerance, upcoming, each) for own in expected.T])
    # Evidence falls by its bet for each unit of loss, which leaves a standard error without the spread.
    error = np.sqrt(2 * np.log(1 / each) * (1 / n + 1 / len(expected)) / (1 / n + 1 / upcoming))
    last = {z: int(np.flatnonzero(evidence >= np.log(1 / each) + z * error).max(initial=-1)) for z in SAFETY}
    return sorted({point for point in last.values() if point >= 0}), last[0.0]


def _evidence(losses: np.ndarray, spread: float, tolerance: float, upcoming: int, level: float) -> float:
    """Return the evidence of losses whose standard deviation is expected to be `spread`."""
    return log_evidence(losses, tolerance, upcoming, best_bet(spread, len(losses), upcoming, level))


def enough_graded_images(
    losses: np.ndarray, tolerance: float, upcoming: int, level: float, most: int = 10**6
) -> int | None:
    """Return about how many images certify a point at which some lose as much as given; None if `most` do not.

    Args:
        losses: Losses of images at the point, in [0, 1].
        tolerance: See `certified_point`.
        upcoming: See `certified_point`.
        level: See `certified_point`.
        most: Number of images to try at most.
    """
    share, spread, each = float(losses.mean()), losses.std(), level / len(SAFETY)
    if share >= tolerance:
        return None

    def enough(n: int) -> bool:
        return _evidence(np.resize(losses, n), spread, tolerance, upcoming, each) >= np.log(1 / each)

    low, high = 0, 1
    while high <= most and not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    by_bound = enough_images(share, tolerance, upcoming, level, binary=False, most=most)
    return min((n for n in (by_bound, high) if n is not None and n <= most), default=None)
