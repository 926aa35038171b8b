"""Fit a threshold for every exit, and choose the exits to visit, by dynamic programming on unlabelled images.

Pure numpy. Costs are relative to the full encoder. An exit that is not visited has the threshold +inf and costs
nothing (docs/method.md#thresholds).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

LOG_PRICES = np.log(1e-4), np.log(1e2)
STEPS = 16
SHIFT = 20.0  # in log odds: enough to move all images of any split to either side of a threshold


@dataclass(frozen=True)
class PathCosts:
    """Costs that an image accumulates on its way through the exits.

    Attributes:
        leaving: Cost of leaving at each exit if no exit is visited `[E]`.
        per_visit: Additional cost of visiting each exit before the last `[E-1]`.
        per_pass: Additional cost of going on from a visited exit `[E-1]`.
    """

    leaving: np.ndarray
    per_visit: np.ndarray
    per_pass: np.ndarray

    @classmethod
    def of(cls, prices: Callable[[tuple[int, ...]], np.ndarray]) -> "PathCosts":
        """Derive these costs from a function that maps visited exits to the cost of leaving at every exit."""
        leaving = prices(())
        alone = [prices((k,)) - leaving for k in range(len(leaving) - 1)]
        per_visit = np.array([extra[k] for k, extra in enumerate(alone)])
        return cls(leaving, per_visit, np.array([extra[k + 1] for k, extra in enumerate(alone)]) - per_visit)

    def at_exits(self, thresholds: np.ndarray) -> np.ndarray:
        """Return the cost of leaving at every exit `[E]`."""
        visited, added = np.isfinite(thresholds), np.zeros(len(self.leaving))
        added[:-1] += visited * self.per_visit
        added[1:] += visited * self.per_pass
        return self.leaving + np.cumsum(added)


def exits_taken(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the first exit whose score exceeds its own threshold, else the last: `[n, E-1]`, `[E-1]` -> `[n]`."""
    leaves = scores > thresholds
    return np.where(leaves.any(1), leaves.argmax(1), scores.shape[1])


def descending(scores: np.ndarray) -> np.ndarray:
    """Return the order of each column's scores, highest first `[n, E-1]`."""
    return np.argsort(-scores, axis=0, kind="stable")


def best_thresholds(
    scores: np.ndarray, order: np.ndarray, rewards: np.ndarray, costs: PathCosts, price: float, sweeps: int = 2
) -> np.ndarray:
    """Choose thresholds that maximise the mean reward minus `price` times the mean cost, backwards over the exits.

    The first pass supposes that all images reach every exit. Each further sweep goes backwards again with only those
    images that reach an exit by the thresholds so far: every step is then an exact maximum over one exit's threshold
    and whether it is visited, so that the objective never falls.

    Args:
        scores: `[n, E-1]`; the higher, the sooner an image leaves. The score of an exit must depend only on that exit,
            or on exits that are always visited.
        order: `descending(scores)`.
        rewards: Reward of leaving at each exit `[n, E]`.
        costs: Costs of the exits.
        price: Reward that the computation of one full encoder is worth.
        sweeps: Sweeps after the first pass.

    Returns:
        `[E-1]`; +inf for an exit that is not visited.
    """
    n, exits = scores.shape
    thresholds = np.full(exits, np.inf)
    for sweep in range(sweeps + 1):
        worth = rewards[:, -1]  # of arriving at the next exit, less what follows
        for k in reversed(range(exits)):
            onward = worth - price * (costs.leaving[k + 1] - costs.leaving[k])
            rows = order[:, k]
            if sweep:
                reached = np.logical_not((scores[:, :k] > thresholds[:k]).any(1))
                rows = rows[reached[rows]]
            thresholds[k] = np.inf
            if len(rows):
                own = scores[rows, k]
                gain = np.cumsum(rewards[rows, k] - onward[rows] + price * costs.per_pass[k])  # if the first 1..n leave
                gain[:-1][own[:-1] == own[1:]] = -np.inf  # no threshold parts equal scores
                gain[np.isneginf(own)] = -np.inf  # where the policy never leaves
                best = int(gain.argmax())
                if gain[best] > price * len(rows) * (costs.per_visit[k] + costs.per_pass[k]):
                    thresholds[k] = _below(own, best + 1)
            worth = onward
            if np.isfinite(thresholds[k]):
                stays = onward - price * costs.per_pass[k]
                worth = np.where(scores[:, k] > thresholds[k], rewards[:, k], stays) - price * costs.per_visit[k]
    return thresholds


def fit_thresholds(
    scores: np.ndarray, rewards: np.ndarray, costs: PathCosts, target: float, sweeps: int = 2
) -> np.ndarray:
    """Fit thresholds `[E-1]` whose mean rate comes close to `target` without exceeding it.

    The price is found by bisection. Since the solution changes in steps, a part of the target remains, which is spent
    by a common shift of all thresholds. If no price meets the target, the thresholds are those of the highest price.

    Args:
        scores: Scores of validation images; see `best_thresholds`.
        rewards: See `best_thresholds`.
        costs: See `best_thresholds`.
        target: Mean rate not to be exceeded.
        sweeps: See `best_thresholds`.
    """
    split = _Split(scores, descending(scores), costs)
    low, high = LOG_PRICES
    found = [split.rated(best_thresholds(scores, split.order, rewards, costs, np.exp(high), sweeps))]
    for _ in range(STEPS):
        middle = (low + high) / 2
        found.append(split.rated(best_thresholds(scores, split.order, rewards, costs, np.exp(middle), sweeps)))
        low, high = (low, middle) if found[-1][0] <= target + 1e-12 else (middle, high)
    return split.tuned(found, target)


def path_of_prices(
    scores: np.ndarray, rewards: np.ndarray, costs: PathCosts, points: int, sweeps: int = 2
) -> list[np.ndarray]:
    """Fit thresholds for `points` rates that are evenly spaced, from the highest that any price gives to the lowest.

    Half as many prices are tried: after the lowest and the highest, each further one is midway between the two
    neighbours whose rates differ most. Between them, thresholds are shifted as in `fit_thresholds`.

    Args:
        scores: Scores of validation images; see `best_thresholds`.
        rewards: See `best_thresholds`.
        costs: See `best_thresholds`.
        points: Number of rates, at least 2.
        sweeps: See `best_thresholds`.
    """
    split = _Split(scores, descending(scores), costs)

    def at(log_price: float) -> tuple[float, np.ndarray]:
        return split.rated(best_thresholds(scores, split.order, rewards, costs, np.exp(log_price), sweeps))

    prices, found = list(LOG_PRICES), [at(log_price) for log_price in LOG_PRICES]
    while len(found) < points // 2:
        widest = max(range(len(found) - 1), key=lambda k: found[k][0] - found[k + 1][0])
        prices.insert(widest + 1, (prices[widest] + prices[widest + 1]) / 2)
        found.insert(widest + 1, at(prices[widest + 1]))
    rates = [rate for rate, _ in found]
    return [split.tuned(found, target) for target in np.linspace(max(rates), min(rates), points)]


def more_careful(scores: np.ndarray, thresholds: np.ndarray, costs: PathCosts, points: int) -> list[np.ndarray]:
    """Shift thresholds so that fewer images leave: to `points` rates, evenly spaced between 1 and the rate they give.

    Args:
        scores: Scores of images; see `best_thresholds`.
        thresholds: Threshold of each exit `[E-1]`, infinite at exits that are not visited.
        costs: Costs of the exits.
        points: Number of rates.

    Returns:
        Thresholds from expensive to cheap, those that were given where a rate cannot be met.
    """
    split = _Split(scores, descending(scores), costs)
    start = split.rated(thresholds)
    return [split.tuned([start], target) for target in np.linspace(1, start[0], points + 2)[1:-1]]


@dataclass(frozen=True)
class _Split:
    """Validation images for which thresholds are fitted: scores `[n, E-1]`, their `descending` order, and costs."""

    scores: np.ndarray
    order: np.ndarray
    costs: PathCosts

    @cached_property
    def columns(self) -> np.ndarray:
        """Scores of each exit, highest first `[n, E-1]`."""
        return np.take_along_axis(self.scores, self.order, 0)

    def rated(self, thresholds: np.ndarray) -> tuple[float, np.ndarray]:
        """Return thresholds with the mean rate that they give."""
        return self.costs.at_exits(thresholds)[exits_taken(self.scores, thresholds)].mean(), thresholds

    def tuned(self, found: list[tuple[float, np.ndarray]], target: float) -> np.ndarray:
        """Take the best of some rated thresholds for a target, and spend the rest of the target by a common shift.

        If none meets the target, the first are returned.
        """
        meeting = [own for own in found if own[0] <= target + 1e-12]
        if not meeting:
            return found[0][1]
        rate, best = max(meeting, key=lambda own: own[0])
        nearest = min(found, key=lambda own: abs(own[0] - target))[1]

        def shifted(thresholds: np.ndarray, delta: float) -> tuple[float, np.ndarray]:
            return self.rated(_shifted(self.columns, thresholds, delta))

        start = nearest if shifted(nearest, -SHIFT)[0] <= target + 1e-12 else best
        low, high = -SHIFT, SHIFT
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if shifted(start, middle)[0] <= target + 1e-12 else (low, middle)
        tuned_rate, tuned = shifted(start, low)
        return tuned if rate < tuned_rate <= target + 1e-12 else best


def _shifted(columns: np.ndarray, thresholds: np.ndarray, delta: float) -> np.ndarray:
    """Shift finite thresholds in the log odds of the share of scores above them; with a larger delta fewer leave.

    Args:
        columns: Scores of each exit, highest first `[n, E-1]`.
        thresholds: `[E-1]`.
        delta: Shift.
    """
    n, shifted = len(columns), thresholds.copy()
    for k in np.flatnonzero(np.isfinite(thresholds)):
        above = np.clip((columns[:, k] > thresholds[k]).mean(), 0.5 / n, 1 - 0.5 / n)
        leaving = int(n / (1 + np.exp(delta - np.log(above / (1 - above)))) + 0.5)
        shifted[k] = _below(columns[:, k], min(leaving, int(np.isfinite(columns[:, k]).sum())))
    return shifted


def _below(descending: np.ndarray, count: int) -> float:
    """Return a threshold that the first `count` of descending scores exceed, midway to the next if there is one."""
    if count == 0:
        return descending[0] + 1
    following = descending[count] if count < len(descending) else -np.inf
    return descending[count - 1] - 1 if np.isneginf(following) else (descending[count - 1] + following) / 2
