"""Distribution-free promises about the next images, from the losses of calibration images.

Pure numpy, since the runtime uses it as well. A loss is a number in [0, 1] that says what an image lost by leaving
early. The only assumption is that calibration images and the next images are exchangeable
(docs/method.md#promises-of-quality).
"""

import numpy as np


def allowed_losses(n: int, tolerance: float, upcoming: int | None, level: float, binary: bool = True) -> int:
    """Return how many losses calibration images may have for the promise to hold, or -1 if no loss is few enough.

    If an operating point is used only when its n calibration losses sum to at most the returned number, the probability
    that it is used and that the next images lose more than `tolerance` of what they could is at most `level`.

    Args:
        n: Number of calibration images.
        tolerance: Mean loss of the next images that is promised not to be exceeded, in (0, 1).
        upcoming: Number of the next images, whose realised mean loss is meant; None for the expected loss.
        level: Probability that the promise may fail.
        binary: Whether every loss is 0 or 1, so that the test is exact; else losses may be anywhere in [0, 1].
    """
    low, high = -1, n
    while low < high:  # the p value grows with the sum
        middle = (low + high + 1) // 2
        low, high = (middle, high) if p_value(middle, n, tolerance, upcoming, binary) <= level else (low, middle - 1)
    return low


def p_value(losses: int, n: int, tolerance: float, upcoming: int | None, binary: bool = True) -> float:
    """Bound the probability of so few calibration losses although the next images lose more than is tolerated.

    With 0/1 losses, at least T = losses + floor(tolerance * upcoming) + 1 of all images lose if the promise fails, and
    calibration images are a random sample of these images: the bound is the hypergeometric probability of at most
    `losses` of T in the sample, with a binomial (Clopper and Pearson, 1934) as its limit for many images. Other losses
    are dominated in convex order by 0/1 losses of the same sum (Hoeffding, JASA 1963, section 6), so that
    min over t of E(t - H)+ / (t - losses) bounds the probability, with H the number in the sample (Bentkus, Annals of
    Probability 2004).

    Args:
        losses: Sum of the calibration losses, rounded up.
        n: Number of calibration images.
        tolerance: See `allowed_losses`.
        upcoming: See `allowed_losses`.
        binary: See `allowed_losses`.
    """
    if upcoming is None:
        pmf = binomial(n, tolerance)
    else:
        total = losses + int(np.floor(tolerance * upcoming + 1e-9)) + binary
        pmf = hypergeometric(n + upcoming, min(total, n + upcoming), n)
    below = np.minimum(np.cumsum(pmf), 1.0)
    if binary or losses >= n:
        return float(below[losses])
    hinge = np.cumsum(below)[losses:]  # E(t - H)+ for t = losses + 1, ..., n + 1
    return min(1.0, float((hinge / np.arange(1, len(hinge) + 1)).min()))


def certified_points(losses: np.ndarray, allowed: int) -> int:
    """Count the operating points that can be used, in order from expensive to cheap (fixed-sequence testing).

    The loss that counts at a point is the largest up to there, which makes losses grow along the sequence. Then one
    test at the first point that fails covers all the others, and no correction for their number is needed.

    Args:
        losses: Losses of calibration images `[n, J]`.
        allowed: `allowed_losses` of n.

    Returns:
        Number of points, from the first on, whose losses sum to at most `allowed`.
    """
    sums = np.maximum.accumulate(losses, axis=1).sum(0)
    return int(np.count_nonzero(np.cumsum(sums > allowed + 1e-9) == 0))


def enough_images(
    share: float, tolerance: float, upcoming: int | None, level: float, binary: bool = True, most: int = 10**6
) -> int | None:
    """Return about how many calibration images certify a point if `share` of them is lost; None if `most` do not.

    Args:
        share: Mean loss at the point.
        tolerance: See `allowed_losses`.
        upcoming: See `allowed_losses`.
        level: See `allowed_losses`.
        binary: See `allowed_losses`.
        most: Number of images to try at most.
    """

    def enough(n: int) -> bool:
        return p_value(int(np.ceil(share * n - 1e-9)), n, tolerance, upcoming, binary) <= level

    low, high = 0, 1
    while not enough(high):
        low, high = high, 2 * high
        if share >= tolerance or high > most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def hypergeometric(total: int, marked: int, drawn: int) -> np.ndarray:
    """Return the probabilities of 0, ..., drawn marked items in a sample without replacement `[drawn + 1]`."""
    log_factorial, k = _log_factorials(total), np.arange(drawn + 1)
    possible = k[(k <= marked) & (drawn - k <= total - marked)]
    logs = _log_choose(log_factorial, marked, possible)
    logs += _log_choose(log_factorial, total - marked, drawn - possible)
    pmf = np.zeros(drawn + 1)
    pmf[possible] = np.exp(logs - _log_choose(log_factorial, total, np.array(drawn)))
    return pmf


def binomial(n: int, share: float) -> np.ndarray:
    """Return the probabilities of 0, ..., n successes `[n + 1]`; `share` is in (0, 1)."""
    k = np.arange(n + 1)
    return np.exp(_log_choose(_log_factorials(n), n, k) + k * np.log(share) + (n - k) * np.log1p(-share))


def _log_factorials(n: int) -> np.ndarray:
    return np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))


def _log_choose(log_factorial: np.ndarray, n: int, k: np.ndarray) -> np.ndarray:
    return log_factorial[n] - log_factorial[k] - log_factorial[n - k]
