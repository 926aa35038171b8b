"""Confidence policies of the early-exit literature, on the same trained heads or on the frozen projection.

docs/method.md#policies lists their rules and costs. All but saturation need the texts before the image is encoded.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tgems.costs.exit_costs import ExitCosts
from tgems.policies.cached_outputs import CachedOutputs
from tgems.policies.exit_view import ExitView
from tgems.policies.interface import OperatingPoint, ThresholdPolicy


class MaxSoftmax(ThresholdPolicy):
    """Leaves where the best text is probable enough (MSDNet, Huang et al., ICLR 2018)."""

    name = "max_softmax"
    label = "max softmax"
    color, marker = "#56B4E9", "v"
    needs_bank = True
    per_exit = True

    def score(self, view: ExitView) -> Tensor:
        """Return the largest probability."""
        return view.bank.first


class Entropy(ThresholdPolicy):
    """Leaves where the entropy is low enough (BranchyNet, Teerapittayanon et al., ICPR 2016; DeeBERT, ACL 2020)."""

    name = "entropy"
    color, marker = "#CC79A7", "D"
    needs_bank = True
    per_exit = True

    def score(self, view: ExitView) -> Tensor:
        """Return minus the entropy, relative to log M."""
        return -view.bank.entropy


class Margin(ThresholdPolicy):
    """Leaves where the best text leads the second by enough probability (Park et al., CODES+ISSS 2015)."""

    name = "margin"
    color, marker = "#009E73", "^"
    needs_bank = True
    per_exit = True

    def score(self, view: ExitView) -> Tensor:
        """Return the lead of the largest probability."""
        return view.bank.margin


class MaxSoftmaxRaw(MaxSoftmax):
    """`max_softmax` on the frozen pooling and projection, so that nothing is trained."""

    name = "max_softmax_raw"
    label = "max softmax, frozen projection"
    color, marker = "#56B4E9", ""
    line = ":"
    frozen_head = True


class MarginRaw(Margin):
    """`margin` on the frozen pooling and projection, so that nothing is trained."""

    name = "margin_raw"
    label = "margin, frozen projection"
    color, marker = "#009E73", ""
    line = ":"
    frozen_head = True


class Patience(ThresholdPolicy):
    """Leaves after t consecutive exits that confirm the previous prediction (PABEE, Zhou et al., NeurIPS 2020).

    t is a whole number, so that only few rates can be met.
    """

    name = "patience"
    color, marker = "#8C6D31", "P"
    needs_bank = True

    def score(self, view: ExitView) -> Tensor:
        """Return the number of consecutive exits, this one included, that agree on the best text."""
        winner = view.bank.winner
        streak = torch.ones_like(winner, dtype=torch.float64)
        if "winner" in view.memory:
            same = winner == view.memory["winner"]
            streak = torch.where(same, view.memory["streak"] + 1, 1.0)
        view.remember(winner=winner, streak=streak)
        return streak

    def fit(self, validation: CachedOutputs, rate_targets: Sequence[float]) -> list[OperatingPoint]:
        """Fit the t whose rate comes closest to each target from below; the cheapest if none is below."""
        price = torch.from_numpy(self.costs(validation.costs, len(validation.bank)))
        exits = validation.embeddings.shape[1]
        points = [OperatingPoint(thresholds=(float(t),) * (exits - 1)) for t in range(1, exits)]
        rates = {point: price[self.decide(validation, point)].mean().item() for point in points}
        found = []
        for target in rate_targets:
            within = [point for point in points if rates[point] <= target]
            best = max(within, key=rates.__getitem__) if within else min(points, key=rates.__getitem__)
            found.append(OperatingPoint(target, thresholds=best.thresholds))
        return found

    def path_of_gates(self, validation: CachedOutputs, rate_target: float) -> list[OperatingPoint]:
        """Return a point for every t, the largest first."""
        exits = validation.embeddings.shape[1]
        every = [(float(t),) * (exits - 1) for t in reversed(range(1, exits - 1))]
        return [OperatingPoint(rate_target, thresholds=thresholds) for thresholds in every]


class Saturation(ThresholdPolicy):
    """Leaves where the class token, or the maximum over tokens, has stopped turning (MuE, Tang et al., CVPR 2023)."""

    name = "saturation"
    color, marker = "#E69F00", "X"

    def unusable(self, costs: ExitCosts) -> str:
        """Return a reason if exits differ in width, or if the frozen projection is used and does not accept them."""
        different = len(set(costs.widths)) > 1
        return super().unusable(costs) or (
            f"it compares exits, which are {costs.widths} channels wide" if different else ""
        )

    def score(self, view: ExitView) -> Tensor:
        """Return the cosine to the token of the exit before; the first exit is never taken."""
        token, before = view.whole_image.double(), view.memory.get("token")
        view.charge(2 * token.shape[1])
        view.remember(token=token)
        return torch.full_like(token[:, 0], -torch.inf) if before is None else F.cosine_similarity(token, before)


class SaturationRaw(Saturation):
    """`saturation` on the frozen pooling and projection, so that nothing is trained."""

    name = "saturation_raw"
    label = "saturation, frozen projection"
    color, marker = "#E69F00", ""
    line = ":"
    frozen_head = True
