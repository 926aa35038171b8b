"""Exit policies: each gives a score per exit, and an image leaves at the first exit whose score exceeds a threshold.

A policy is one class and its name in the config. Decisions depend on one image alone, never on the others of a batch.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tgems.exits.modules import BankGates, ExitHeads, ImageGates, bank_features, bank_history
from tgems.profiling.costs import ExitCosts


@dataclass(frozen=True)
class ExitModules:
    """The trained modules of one seed; `image_gates` by rate target."""

    heads: ExitHeads
    image_gates: dict[float, ImageGates]
    bank_gates: BankGates | None


@dataclass(frozen=True)
class ExitOutputs:
    """What a policy may look at.

    Attributes:
        summaries: `[n, E-1, 2d]`.
        embeddings: Unit embeddings at every exit `[n, E, D]`.
        bank: Text embeddings known beforehand `[M, D]`: class names or captions.
        scale: Logit scale.
        costs: What exits cost.
        modules: Trained gates.
    """

    summaries: Tensor
    embeddings: Tensor
    bank: Tensor
    scale: float
    costs: ExitCosts
    modules: ExitModules

    def bank_logits(self, start: int, stop: int) -> Tensor:
        """Scaled similarities before the last exit, for some images: `[b, E-1, M]`."""
        return self.scale * self.embeddings[start:stop, :-1] @ self.bank.T


class Policy(Protocol):
    """An exit policy.

    Attributes:
        guidance: `none`, `image` or `bank`: what a trained gate sees.
        needs_bank: Whether the texts must be known before the image is encoded.
        per_target: Whether a module of its own is trained for each rate target.
    """

    guidance: str
    needs_bank: bool
    per_target: bool

    def scores(self, outputs: ExitOutputs, rate_target: float) -> Tensor:
        """Score of every exit before the last: `[n, E-1]` float64."""

    def costs(self, costs: ExitCosts, bank_size: int) -> np.ndarray:
        """Relative cost of leaving at every exit `[E]`."""


class TGem:
    """The T-GEM's gate on the image alone: index-safe."""

    guidance, needs_bank, per_target = "image", False, True

    def scores(self, outputs: ExitOutputs, rate_target: float) -> Tensor:
        """Gate logits of the module trained for this target."""
        return outputs.modules.image_gates[rate_target](outputs.summaries).double()

    def costs(self, costs: ExitCosts, bank_size: int) -> np.ndarray:
        """Gates visited and one head."""
        return costs.image_guided()


class TGemBank:
    """The T-GEM's gate on image and text bank: leaves where little is left to gain for what remains to be paid.

    The score is `-(q - p) / (r_L - r_l)`, a negative slope of accuracy over rate (docs/method.md#bank-guidance).
    """

    guidance, needs_bank, per_target = "bank", True, False

    def scores(self, outputs: ExitOutputs, rate_target: float) -> Tensor:
        """Negative slope; the same network serves every target."""
        rates = torch.from_numpy(self.costs(outputs.costs, len(outputs.bank)))
        size = torch.tensor(len(outputs.bank))
        parts = []
        for start, stop in _blocks(outputs):
            history = bank_history(bank_features(outputs.bank_logits(start, stop)), size)
            logits = outputs.modules.bank_gates(outputs.summaries[start:stop], history)
            p, q = logits.double().sigmoid().unbind(-1)
            parts.append((p - q) / (rates[-1] - rates[:-1]))
        return torch.cat(parts)

    def costs(self, costs: ExitCosts, bank_size: int) -> np.ndarray:
        """Heads, bank products and gates of the exits visited."""
        return costs.bank_guided(bank_size)


class Margin:
    """Leaves where the best text leads the second by enough probability."""

    guidance, needs_bank, per_target = "none", True, False

    def scores(self, outputs: ExitOutputs, rate_target: float) -> Tensor:
        """p(1) - p(2) in float64, where saturated probabilities still differ."""
        parts = []
        for start, stop in _blocks(outputs):
            logits = outputs.bank_logits(start, stop).double()
            first, second = logits.topk(2, dim=-1).values.sub(logits.logsumexp(-1, keepdim=True)).exp().unbind(-1)
            parts.append(first - second)
        return torch.cat(parts)

    def costs(self, costs: ExitCosts, bank_size: int) -> np.ndarray:
        """Heads and bank products of the exits visited."""
        return costs.confidence(bank_size)


POLICIES: dict[str, Policy] = {"tgem": TGem(), "tgem_bank": TGemBank(), "margin": Margin()}


def _blocks(outputs: ExitOutputs, elements: int = 4_000_000):
    """Image ranges whose bank logits stay within `elements`."""
    size = max(1, elements // (outputs.summaries.shape[1] * len(outputs.bank)))
    n = len(outputs.summaries)
    return [(start, min(start + size, n)) for start in range(0, n, size)]


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
        The threshold, midway between adjacent distinct scores, and the mean rate it gives. Where even the lowest
        threshold costs more than the target, that threshold and the rate it does give.
    """
    price = torch.from_numpy(costs)
    values = scores.unique()
    middles = (values[1:] + values[:-1]) / 2
    candidates = torch.cat((values[:1] - 1, middles, values[-1:] + 1))

    def rate(index: int) -> float:
        return price[choose_exits(scores, candidates[index])].mean().item()

    low, high = 0, len(candidates) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if rate(middle) <= target else (low, middle - 1)
    return candidates[low].item(), rate(low)
