"""Policies with a trained gate: T-GEM on the image, T-GEM on image and text bank, and learned confidence."""

import numpy as np
from torch import Tensor

from tgems.costs.exit_costs import ExitCosts
from tgems.features.row_access import map_rows
from tgems.policies.exit_outputs import ExitOutputs
from tgems.policies.interface import ThresholdPolicy


class TGem(ThresholdPolicy):
    """The T-GEM's gate on the image alone: index-safe."""

    name = "tgem"
    guidance = "image"

    def scores(self, outputs: ExitOutputs, rate_target: float) -> Tensor:
        """Gate logits of the module trained for this target."""
        return map_rows(outputs.modules.image_gates[rate_target], outputs.summaries).double()

    def costs(self, costs: ExitCosts, bank_size: int, visited: tuple[int, ...] | None = None) -> np.ndarray:
        """Gates visited and one head."""
        return costs.image_guided()


class TGemBank(ThresholdPolicy):
    """The T-GEM's gate on image and text bank (docs/method.md#bank-guidance).

    Staged gates leave at the price of computation from which going on is not worth it, and one network serves every
    target; gates that were trained together with heads are of one target.
    """

    name = "tgem_bank"
    guidance = "bank"
    needs_bank = True
    per_exit = True

    def scores(self, outputs: ExitOutputs, rate_target: float) -> Tensor:
        """Scores of the bank gates."""
        return outputs.bank_scores

    def costs(self, costs: ExitCosts, bank_size: int, visited: tuple[int, ...] | None = None) -> np.ndarray:
        """Heads, bank products and gates of the exits visited."""
        return costs.bank_guided(bank_size, visited)


class LearnedConfidence(TGem):
    """A gate as the T-GEM's, trained to tell whether the image's text ranks first in its batch; no rate term."""

    name = "learned_confidence"

    def scores(self, outputs: ExitOutputs, rate_target: float) -> Tensor:
        """Logit of being right; the same gate serves every target."""
        return map_rows(outputs.modules.confidence_gates, outputs.summaries).double()

    def costs(self, costs: ExitCosts, bank_size: int, visited: tuple[int, ...] | None = None) -> np.ndarray:
        """Gates visited and one head."""
        return costs.learned_confidence()
