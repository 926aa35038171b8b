"""Confidence policies of the early-exit literature, on the same trained heads. Pure: outputs in, scores out.

docs/method.md#policies gives rules and costs. All but saturation need the texts before the image is encoded.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tgems.costs.exit_costs import ExitCosts
from tgems.features.row_access import map_rows
from tgems.policies.exit_outputs import ExitOutputs
from tgems.policies.interface import OperatingPoint, ThresholdPolicy
from tgems.policies.reference import NO_PROJECTION


class BankConfidence(ThresholdPolicy):
    """What the confidence policies share: heads of the exits visited, and bank products of those passed, are paid for.

    Thresholds, one for each exit, and the exits that are worth a look are fitted on validation images, as for the T-GEM
    that sees the bank.
    """

    needs_bank = True
    per_exit = True

    def costs(self, costs: ExitCosts, bank_size: int, visited: tuple[int, ...] | None = None) -> np.ndarray:
        """A head at every exit visited, and a bank product at every one that is passed."""
        return costs.confidence_raw(bank_size, visited) if self.frozen_head else costs.confidence(bank_size, visited)

    def unusable(self, costs: ExitCosts) -> str:
        """On the frozen projection, that must accept every exit."""
        return NO_PROJECTION if self.frozen_head and costs.projection is None else ""


class MaxSoftmax(BankConfidence):
    """Leaves where the best text is probable enough (BranchyNet's rule with the maximum, MSDNet's)."""

    name = "max_softmax"

    def scores(self, outputs: ExitOutputs, rate_target: float) -> Tensor:
        """max p."""
        return outputs.statistics.first[:, :-1]


class Entropy(BankConfidence):
    """Leaves where the entropy is low enough against log M (BranchyNet; DeeBERT)."""

    name = "entropy"

    def scores(self, outputs: ExitOutputs, rate_target: float) -> Tensor:
        """Minus the entropy over log M."""
        return -outputs.statistics.entropy[:, :-1]


class Margin(BankConfidence):
    """Leaves where the best text leads the second by enough probability."""

    name = "margin"

    def scores(self, outputs: ExitOutputs, rate_target: float) -> Tensor:
        """p(1) - p(2)."""
        return outputs.statistics.margin[:, :-1]


class MaxSoftmaxRaw(MaxSoftmax):
    """`max_softmax` on the frozen pooling and projection: nothing is trained."""

    name = "max_softmax_raw"
    frozen_head = True


class MarginRaw(Margin):
    """`margin` on the frozen pooling and projection: nothing is trained."""

    name = "margin_raw"
    frozen_head = True


class Patience(BankConfidence):
    """Leaves after t agreements in a row following the first prediction (PABEE). t is whole: few rates can be met."""

    name = "patience"

    def fit(self, validation: ExitOutputs, rate_targets: list[float]) -> list[OperatingPoint]:
        """The t whose rate comes closest to each target from below; the cheapest where none is below."""
        price = torch.from_numpy(self.costs(validation.costs, len(validation.bank)))
        run = agreements(validation.statistics.winner)[:, :-1]
        choices = range(1, validation.embeddings.shape[1])
        rates = {t: price[_first(run >= t)].mean().item() for t in choices}
        points = []
        for target in rate_targets:
            within = [t for t in choices if rates[t] <= target]
            best = max(within, key=rates.get) if within else min(choices, key=rates.get)
            points.append(OperatingPoint(target, None, {"patience": best}))
        return points

    def decide(self, outputs: ExitOutputs, point: OperatingPoint) -> Tensor:
        """First exit at the end of enough agreements."""
        return _first(agreements(outputs.statistics.winner)[:, :-1] >= point.parameters["patience"])


class Saturation(ThresholdPolicy):
    """Leaves where the CLS token, or the mean token, has stopped turning since the previous exit: index-safe."""

    name = "saturation"

    def unusable(self, costs: ExitCosts) -> str:
        """Exits must be as wide as each other."""
        return "" if len(set(costs.widths)) == 1 else f"it compares exits, which are {costs.widths} channels wide"

    def scores(self, outputs: ExitOutputs, rate_target: float) -> Tensor:
        """Cosine of the global parts of this and the previous exit; the first exit is never taken."""
        turn = map_rows(lambda rows: _turn(rows[..., : outputs.cls_dim].double()), outputs.summaries)
        return F.pad(turn, (1, 0), value=-torch.inf)

    def costs(self, costs: ExitCosts, bank_size: int, visited: tuple[int, ...] | None = None) -> np.ndarray:
        """2d at every exit visited, and one head."""
        return costs.at_exits(per_visit=2 * np.array(costs.widths), at_exit=costs.head)


class SaturationRaw(Saturation):
    """`saturation` on the frozen pooling and projection: nothing is trained."""

    name = "saturation_raw"
    frozen_head = True

    def unusable(self, costs: ExitCosts) -> str:
        """There must be a projection for every exit, and exits must be as wide as each other."""
        return NO_PROJECTION if costs.projection is None else super().unusable(costs)

    def costs(self, costs: ExitCosts, bank_size: int, visited: tuple[int, ...] | None = None) -> np.ndarray:
        """2d at every exit visited, and the frozen projection."""
        return costs.at_exits(per_visit=2 * np.array(costs.widths), at_exit=costs.projection)


def _turn(cls: Tensor) -> Tensor:
    """Cosine of consecutive exits' global parts `[n, E, d]` -> `[n, E-1]`."""
    return F.cosine_similarity(cls[:, 1:], cls[:, :-1], dim=-1)


def agreements(winner: Tensor) -> Tensor:
    """How many times in a row the winner has been confirmed: `[n, E]` -> `[n, E]` int64, 0 at the first exit."""
    run = torch.zeros_like(winner)
    for exit_ in range(1, winner.shape[1]):
        run[:, exit_] = torch.where(winner[:, exit_] == winner[:, exit_ - 1], run[:, exit_ - 1] + 1, 0)
    return run


def _first(leaves: Tensor) -> Tensor:
    """First True of `[n, E-1]`, else the last exit."""
    return F.pad(leaves, (0, 1), value=True).int().argmax(1)
