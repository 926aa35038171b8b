"""Policies with a trained gate: T-GEM on the image, T-GEM on image and text bank, and learned confidence."""

import numpy as np
import torch
from torch import Tensor

from tgems.exits.modules import bank_history
from tgems.exits.outputs import ExitOutputs
from tgems.exits.policies import ThresholdPolicy
from tgems.profiling.costs import ExitCosts


class TGem(ThresholdPolicy):
    """The T-GEM's gate on the image alone: index-safe."""

    name = "tgem"
    guidance = "image"

    def scores(self, outputs: ExitOutputs, rate_target: float) -> Tensor:
        """Gate logits of the module trained for this target."""
        return outputs.modules.image_gates[rate_target](outputs.summaries).double()

    def costs(self, costs: ExitCosts, bank_size: int) -> np.ndarray:
        """Gates visited and one head."""
        return costs.image_guided()


class TGemBank(ThresholdPolicy):
    """The T-GEM's gate on image and text bank: leaves where little is left to gain for what remains to be paid.

    The score is `-(q - p) / (r_L - r_l)`, a negative slope of accuracy over rate (docs/method.md#bank-guidance); one
    network serves every target.
    """

    name = "tgem_bank"
    guidance = "bank"
    needs_bank = True

    def scores(self, outputs: ExitOutputs, rate_target: float) -> Tensor:
        """Negative slope."""
        rates = torch.from_numpy(self.costs(outputs.costs, len(outputs.bank)))
        history = bank_history(outputs.statistics.features, torch.tensor(len(outputs.bank)))
        p, q = outputs.modules.bank_gates(outputs.summaries, history).double().sigmoid().unbind(-1)
        return (p - q) / (rates[-1] - rates[:-1])

    def costs(self, costs: ExitCosts, bank_size: int) -> np.ndarray:
        """Heads, bank products and gates of the exits visited."""
        return costs.bank_guided(bank_size)


class LearnedConfidence(TGem):
    """A gate as the T-GEM's, trained to tell whether the image's text ranks first in its batch; no rate term."""

    name = "learned_confidence"

    def scores(self, outputs: ExitOutputs, rate_target: float) -> Tensor:
        """Logit of being right; the same gate serves every target."""
        return outputs.modules.confidence_gates(outputs.summaries).double()
