"""The interface of exit policies, and how thresholds are fitted and applied. docs/adding-a-policy.md adds one.

A policy is fitted on validation images for every rate target, then decides for each image alone, never by the others
of its batch, and says what an exit costs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tgems.errors import UserError
from tgems.exits.outputs import ExitOutputs
from tgems.profiling.costs import ExitCosts


@dataclass(frozen=True)
class OperatingPoint:
    """What a fit leaves behind, frozen before test images are seen.

    Attributes:
        rate_target: Mean rate that was not to be exceeded; None where nothing is calibrated.
        exit: Index of the exit that every image takes, for fixed exits.
        parameters: Plain numbers by name, such as `threshold`.
        visited: Exits before the last (0-based) that are looked at, where a policy passes some over; None for all.
    """

    rate_target: float | None = None
    exit: int | None = None
    parameters: dict[str, float] | None = None
    visited: tuple[int, ...] | None = None


class Policy:
    """An exit policy; subclasses say how to fit and to decide.

    Attributes:
        name: How configurations and tables call it.
        guidance: `none`, `image` or `bank`: what a trained gate of it sees.
        needs_bank: Whether the texts must be known before the image is encoded; if so it is not index-safe.
        adaptive: Whether it looks at the image; adaptive policies stand beside their own exits shuffled.
        frozen_head: Whether exits use the backbone's own pooling and projection, the same for all seeds.
        oracle: Whether it looks at the right answer: a bound, no competitor.
        mixes: Whether chance decides, with the same `shares` for all images; results are expectations.
    """

    name: ClassVar[str]
    guidance: ClassVar[str] = "none"
    needs_bank: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False
    frozen_head: ClassVar[bool] = False
    oracle: ClassVar[bool] = False
    mixes: ClassVar[bool] = False

    def unusable(self, costs: ExitCosts) -> str:
        """Why it cannot be used at exits of such costs; empty where it can."""
        return ""

    @property
    def index_safe(self) -> bool:
        """Whether an image index can be built by it: it looks neither at the texts nor at the answer."""
        return not (self.needs_bank or self.oracle)

    def fit(self, validation: ExitOutputs, rate_targets: list[float]) -> list[OperatingPoint]:
        """Fit on validation images.

        Args:
            validation: Outputs on validation images.
            rate_targets: Mean relative costs not to be exceeded.

        Returns:
            Operating points, one per target unless the policy says otherwise.
        """
        raise NotImplementedError

    def decide(self, outputs: ExitOutputs, point: OperatingPoint) -> Tensor:
        """Exit of each image `[n]` int64, 0-based."""
        raise NotImplementedError

    def shares(self, point: OperatingPoint, n_exits: int) -> np.ndarray:
        """Where `mixes`, the share of images at every exit `[E]`, in place of `decide`."""
        raise NotImplementedError

    def costs(self, costs: ExitCosts, bank_size: int, visited: tuple[int, ...] | None = None) -> np.ndarray:
        """Relative cost of leaving at every exit `[E]` float64, if exits that are not `visited` are passed over."""
        raise NotImplementedError


class ThresholdPolicy(Policy):
    """Leaves at the first visited exit whose score exceeds a threshold.

    Attributes:
        chooses_visits: Whether `fit` also chooses the exits that are looked at, worthwhile where a look is dear; the
            score of an exit must then depend on that exit alone.
    """

    adaptive = True
    chooses_visits: ClassVar[bool] = False

    def scores(self, outputs: ExitOutputs, rate_target: float) -> Tensor:
        """Score of every exit before the last `[n, E-1]` float64; -inf where the policy never leaves."""
        raise NotImplementedError

    def fit(self, validation: ExitOutputs, rate_targets: list[float]) -> list[OperatingPoint]:
        """One threshold per target, and the exits to visit where these are chosen; needs no labels."""
        points = []
        for target in rate_targets:
            scores, visited = self.scores(validation, target), None
            if self.chooses_visits:
                winner = validation.statistics.winner
                prices = partial(self.costs, validation.costs, len(validation.bank))
                visited = choose_visits(scores, winner == winner[:, -1:], prices, target)
            price = self.costs(validation.costs, len(validation.bank), visited)
            threshold, _ = fit_threshold(pass_over(scores, visited), price, target)
            points.append(OperatingPoint(target, None, {"threshold": threshold}, visited))
        return points

    def decide(self, outputs: ExitOutputs, point: OperatingPoint) -> Tensor:
        """Apply the frozen threshold."""
        scores = pass_over(self.scores(outputs, point.rate_target), point.visited)
        return choose_exits(scores, point.parameters["threshold"])


def pass_over(scores: Tensor, visited: tuple[int, ...] | None) -> Tensor:
    """Scores `[n, E-1]` with -inf at exits that are not visited."""
    if visited is None:
        return scores
    closed = torch.ones(scores.shape[1], dtype=torch.bool)
    closed[list(visited)] = False
    return scores.masked_fill(closed, -torch.inf)


def choose_exits(scores: Tensor, threshold: float) -> Tensor:
    """First exit whose score exceeds the threshold, else the last: `[n, E-1]` -> `[n]` int64, 0-based."""
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
        The threshold, midway between adjacent distinct finite scores, and the mean rate it gives. Where even the
        lowest threshold costs more than the target, that threshold and the rate it does give.

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


def choose_visits(
    scores: Tensor, agrees: Tensor, prices: Callable[[tuple[int, ...]], np.ndarray], target: float, levels: int = 256
) -> tuple[int, ...]:
    """Choose the exits to look at by greedy search: add or drop one exit while agreement with the last exit grows.

    Thresholds are searched on a grid of score quantiles here; the final one is exact (`fit_threshold`).

    Args:
        scores: Validation scores `[n, E-1]`.
        agrees: Whether an exit's best text is the last exit's `[n, E]`.
        prices: Cost of every exit `[E]` for a set of visited exits.
        target: Mean rate not to be exceeded.
        levels: Size of the grid.

    Returns:
        Visited exits, 0-based, ascending; all of them where no set meets the target.
    """
    finite = scores[scores.isfinite()]
    grid = torch.quantile(finite[torch.linspace(0, len(finite) - 1, min(len(finite), 100_000)).long()],
                          torch.linspace(0, 1, levels, dtype=finite.dtype))  # fmt: skip
    level = np.asarray(torch.searchsorted(grid.contiguous(), scores.contiguous()), dtype=np.int16)
    agrees = agrees.double().numpy()

    @cache
    def quality(visited: tuple[int, ...]) -> float:
        price, columns = prices(visited), level[:, visited]
        exits = np.array([*visited, len(price) - 1])

        def taken(threshold: int) -> np.ndarray:
            leaves = columns > threshold
            return exits[np.where(leaves.any(1), leaves.argmax(1), len(visited))]

        low, high = -1, levels
        if price[taken(low)].mean() > target:
            return -1.0
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if price[taken(middle)].mean() <= target else (low, middle - 1)
        return agrees[np.arange(len(agrees)), taken(low)].mean()

    best, value = (), -1.0
    while True:
        toggled = [tuple(sorted({*best} ^ {k})) for k in range(scores.shape[1])]
        found = max((t for t in toggled if t), key=quality)
        if quality(found) <= value + 1e-4:
            return best or tuple(range(scores.shape[1]))
        best, value = found, quality(found)


def require_index_safe(policy: Policy) -> None:
    """Refuse a policy that cannot build an image index.

    Raises:
        UserError: The policy needs the texts before the image is encoded.
    """
    if policy.needs_bank:
        raise UserError(
            f"policy {policy.name!r} looks at the texts while the image is encoded, but in text-to-image retrieval the "
            "index is built before a query is known; use an index-safe policy such as 'tgem' or 'saturation', or let "
            "datasets.*.directions hold image_to_text too"
        )
