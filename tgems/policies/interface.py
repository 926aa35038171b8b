"""The interface of exit policies, and how thresholds are fitted and applied. docs/adding-a-policy.md adds one.

A policy is fitted on validation images for every rate target, then decides for each image alone, never by the others
of its batch, and says what an exit costs.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tgems.costs.exit_costs import ExitCosts
from tgems.errors import UserError
from tgems.exits.thresholds import choose_exits, fit_threshold
from tgems.policies import per_exit_thresholds
from tgems.policies.exit_outputs import ExitOutputs
from tgems.policies.per_exit_thresholds import PathCosts


@dataclass(frozen=True)
class OperatingPoint:
    """What a fit leaves behind, frozen before test images are seen.

    Attributes:
        rate_target: Mean rate that was not to be exceeded; None where nothing is calibrated.
        exit: Index of the exit that every image takes, for fixed exits.
        parameters: Plain numbers by name, of policies without thresholds.
        visited: Exits before the last (0-based) that are looked at, where a policy passes some over; None for all.
        thresholds: Threshold at each exit that is looked at.
    """

    rate_target: float | None = None
    exit: int | None = None
    parameters: dict[str, float] | None = None
    visited: tuple[int, ...] | None = None
    thresholds: tuple[float, ...] | None = None

    def at_exits(self, before_last: int) -> Tensor:
        """Threshold at every exit before the last `[E-1]` float64, +inf where none is looked at."""
        every = torch.full((before_last,), torch.inf, dtype=torch.float64)
        every[list(range(before_last) if self.visited is None else self.visited)] = torch.tensor(
            self.thresholds, dtype=torch.float64
        )
        return every


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
        per_exit: Whether each exit has a threshold of its own, and `fit` also chooses the exits that are looked at
            (tgems/policies/per_exit_thresholds.py). This is for policies that look at the texts: it is their best text
            at each exit whose worth is learned from. The score of an exit must then depend on that exit alone.
    """

    adaptive = True
    per_exit: ClassVar[bool] = False

    def scores(self, outputs: ExitOutputs, rate_target: float) -> Tensor:
        """Score of every exit before the last `[n, E-1]` float64; -inf where the policy never leaves."""
        raise NotImplementedError

    def fit(self, validation: ExitOutputs, rate_targets: list[float]) -> list[OperatingPoint]:
        """One threshold per target, or one per target and exit; needs no labels."""
        prices = partial(self.costs, validation.costs, len(validation.bank))
        points = []
        for target in rate_targets:
            scores = self._scores(validation, target)
            if self.per_exit:
                rewards = validation.last_exits_view.numpy()
                every = per_exit_thresholds.fit_thresholds(scores.numpy(), rewards, PathCosts.of(prices), target)
                visited = tuple(np.flatnonzero(np.isfinite(every)).tolist())
                points.append(OperatingPoint(target, None, None, visited, tuple(every[list(visited)].tolist())))
            else:
                threshold, _ = fit_threshold(scores, prices(None), target)
                points.append(OperatingPoint(target, thresholds=(threshold,) * scores.shape[1]))
        return points

    def decide(self, outputs: ExitOutputs, point: OperatingPoint) -> Tensor:
        """Apply the frozen thresholds."""
        scores = self._scores(outputs, point.rate_target)
        return choose_exits(scores, point.at_exits(scores.shape[1]))

    def _scores(self, outputs: ExitOutputs, rate_target: float) -> Tensor:
        """Compute `scores` once: fits and decisions of several calibrations need the same."""
        key = (self.name, rate_target)
        if key not in outputs.scores:
            outputs.scores[key] = self.scores(outputs, rate_target)
        return outputs.scores[key]


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
