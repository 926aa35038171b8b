"""Policies with a trained gate: T-GEM on the image, T-GEM on image and text bank, and learned confidence."""

import numpy as np
from torch import Tensor

from tgems.exits.bank_modules import JointBankGates
from tgems.exits.outputs import ExitOutputs
from tgems.exits.policies import ThresholdPolicy
from tgems.features.rows import by_rows
from tgems.profiling.costs import ExitCosts

CONFIDENCE = 0.4  # weight of the log odds, chosen on validation images of the demo


class TGem(ThresholdPolicy):
    """The T-GEM's gate on the image alone: index-safe."""

    name = "tgem"
    guidance = "image"

    def scores(self, outputs: ExitOutputs, rate_target: float) -> Tensor:
        """Gate logits of the module trained for this target."""
        return by_rows(outputs.modules.image_gates[rate_target], outputs.summaries).double()

    def costs(self, costs: ExitCosts, bank_size: int, visited: tuple[int, ...] | None = None) -> np.ndarray:
        """Gates visited and one head."""
        return costs.image_guided()


class TGemBank(ThresholdPolicy):
    """The T-GEM's gate on image and text bank: leaves at the price of computation from which going on is not worth it.

    The score is minus the log of the break-even price, plus a share of the log odds of the best text, which hold where
    texts are unlike those of the training (docs/method.md#bank-guidance). One network serves every target.
    """

    name = "tgem_bank"
    guidance = "bank"
    needs_bank = True
    chooses_visits = True

    def scores(self, outputs: ExitOutputs, rate_target: float) -> Tensor:
        """Minus the log of the break-even price, plus log odds; for gates trained with the heads, their logits."""
        if isinstance(outputs.modules.bank_gates, JointBankGates):
            return outputs.joint_bank_logits
        return CONFIDENCE * outputs.statistics.first[:, :-1].logit(eps=1e-12) - outputs.break_even

    def costs(self, costs: ExitCosts, bank_size: int, visited: tuple[int, ...] | None = None) -> np.ndarray:
        """Heads, bank products and gates of the exits visited."""
        return costs.bank_guided(bank_size, visited)


class LearnedConfidence(TGem):
    """A gate as the T-GEM's, trained to tell whether the image's text ranks first in its batch; no rate term."""

    name = "learned_confidence"

    def scores(self, outputs: ExitOutputs, rate_target: float) -> Tensor:
        """Logit of being right; the same gate serves every target."""
        return by_rows(outputs.modules.confidence_gates, outputs.summaries).double()

    def costs(self, costs: ExitCosts, bank_size: int, visited: tuple[int, ...] | None = None) -> np.ndarray:
        """Gates visited and one head."""
        return costs.learned_confidence()
