"""Certify an operating point for losses between 0 and 1, such as the share of its neighbours that an image loses.

Two tests are at hand: bets on a few points, and the bound that is used for 0/1 losses too, on all points in order.
Losses of other images say which of them will let a cheaper point pass (docs/method.md#promises-of-quality).
"""

from collections.abc import Callable

import numpy as np

from tgems.evaluation.betting import best_bet, log_evidence, margin
from tgems.evaluation.risk_control import allowed_losses, certified_points, enough_images

SAFETY = (4.0, 2.0, 1.0, 0.0, -1.0)


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
    points, likely = candidates(expected, n, tolerance, upcoming, level)
    allowed = allowed_losses(n, tolerance, upcoming, level, binary=False)
    if certified_points(expected * (n / len(expected)), allowed) - 1 > likely:
        return _last_in_order(losses_at, expected.shape[1], allowed)
    level = level / max(len(points), 1)
    for point in reversed(points):
        bet = best_bet(expected[:, point].std(), n, upcoming, level)
        if log_evidence(losses_at(point), tolerance, upcoming, bet) >= np.log(1 / level):
            return point
    return -1


def candidates(expected: np.ndarray, n: int, tolerance: float, upcoming: int, level: float) -> tuple[list[int], int]:
    """Choose the points to bet on: those that will pass with more and less certainty.

    Returns:
        The points in order, and the last one that will pass if losses are as expected, or -1.
    """
    spread = expected.std(0)
    slack = tolerance - expected.mean(0) - margin(spread, n, upcoming, level / len(SAFETY))
    error = spread * np.sqrt(1 / n + 1 / len(expected))
    last = [int(np.flatnonzero(slack >= z * error).max(initial=-1)) for z in (*SAFETY, 0.0)]
    return sorted({point for point in last[:-1] if point >= 0}), last[-1]


def _last_in_order(losses_at: Callable[[int], np.ndarray], points: int, allowed: int) -> int:
    """Return the last point before the first whose losses, the largest up to there, sum to more than is allowed."""
    worst = np.zeros(1)
    for point in range(points):
        worst = np.maximum(worst, losses_at(point))
        if worst.sum() > allowed + 1e-9:
            return point - 1
    return points - 1


def enough_graded_images(
    losses: np.ndarray, tolerance: float, upcoming: int, level: float, most: int = 10**6
) -> int | None:
    """Return about how many images certify a point at which some lose as much as given; None if `most` do not.

    Args:
        losses: Losses of images at the point, in [0, 1].
        tolerance: See `certified_point`.
        upcoming: See there.
        level: See there.
        most: Number of images to try at most.
    """
    share, aim = float(losses.mean()), (tolerance, upcoming, level)
    by_bound = enough_images(share, *aim, binary=False, most=most)
    room = max(tolerance - share, 0.0) / max(losses.std(), 1e-3)
    inverse = room**2 / (2 * np.log(len(SAFETY) / level)) - 1 / upcoming
    least = enough_images(0.0, *aim, binary=False, most=most)
    by_bets = None if inverse < 1 / most or least is None else max(least, int(np.ceil(1 / inverse)))
    return min((n for n in (by_bound, by_bets) if n is not None), default=None)
