"""A test that the next images lose little, for losses anywhere in [0, 1] whose variance is small.

Pure numpy, since the runtime uses it as well. It bets that the next calibration image loses less than it would on
average if the promise failed (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting",
JRSS B 2024, section 5, for samples without replacement). The use for the realised loss of the next images is a
reconstruction (docs/method.md#promises-of-quality).
"""

import numpy as np

LARGEST_STAKE = 0.95


def log_evidence(losses: np.ndarray, tolerance: float, upcoming: int, bet: float) -> float:
    """Return the logarithm of a number that is large only by chance if the next images lose more than is tolerated.

    If tolerance, number of images and bet are fixed before the losses are seen, then the probability that the number
    is 1 / p or more, and that the next images lose more than `tolerance` on average, is at most p.

    Args:
        losses: Losses of calibration images in [0, 1] `[n]`, in random order.
        tolerance: Mean loss of the next images that is promised not to be exceeded, in (0, 1).
        upcoming: Number of the next images.
        bet: Size of the bets, positive; `best_bet` has the one that grows fastest.
    """
    left = upcoming + np.arange(len(losses), 0, -1)  # images whose losses are still unknown
    means = (tolerance * upcoming + np.cumsum(losses[::-1])[::-1]) / left
    stakes = np.minimum(bet * upcoming / left, LARGEST_STAKE / (1 - means).clip(1e-12))
    return float(np.log1p(stakes * (means - losses)).cumsum().max())


def best_bet(spread: float, n: int, upcoming: int, level: float) -> float:
    """Return the size of the bets by which the evidence reaches 1 / level at the largest mean loss.

    Args:
        spread: Standard deviation of the losses, as expected before they are seen.
        n: Number of calibration images.
        upcoming: Number of the next images.
        level: Probability that the promise may fail.
    """
    return float(np.sqrt(2 * np.log(1 / level) * (1 / n + 1 / upcoming)) / max(spread, 1e-3))
