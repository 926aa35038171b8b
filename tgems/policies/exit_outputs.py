"""What an exit policy may look at: everything that heads, gates and the text bank say about the images of one split."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tgems.costs.exit_costs import ExitCosts
from tgems.exits.bank_modules import BankGates, JointBankGates, bank_features
from tgems.exits.modules import ExitHeads, ImageGates
from tgems.features.row_access import Rows

BLOCK_ELEMENTS = 2_000_000
ROWS = 4096


@dataclass(frozen=True)
class ExitModules:
    """The trained modules of one seed; `image_gates` by rate target. Absent ones are those the config leaves out."""

    heads: ExitHeads
    image_gates: dict[float, ImageGates]
    bank_gates: BankGates | JointBankGates | None = None
    confidence_gates: ImageGates | None = None


class BankStatistics(NamedTuple):
    """What each exit's similarities say about the bank, with p = softmax(scale z T').

    Attributes:
        first: Largest probability `[n, E]` float64.
        margin: Its lead over the second `[n, E]` float64; saturated probabilities still differ.
        entropy: Entropy over its maximum log M `[n, E]` float64.
        winner: Index of the best text `[n, E]` int64.
        features: `bank_features` at exits before the last `[n, E-1, 11]` float32.
    """

    first: Tensor
    margin: Tensor
    entropy: Tensor
    winner: Tensor
    features: Tensor


@dataclass(frozen=True)
class ExitOutputs:
    """One split at every exit, for one seed.

    Attributes:
        keys: Sample keys.
        summaries: Before the last exit `[n, E-1, S]`, by rows; the global part first (the CLS token, if any).
        cls_dim: How much of a summary is the global part.
        embeddings: Unit embeddings at every exit `[n, E, D]`.
        bank: Text embeddings known beforehand `[M, D]`: class names or captions.
        right: Whether the best text is right `[n, E]` bool; for oracles, and for fits on labelled validation images.
        scale: Logit scale.
        costs: What exits cost.
        modules: Trained modules; None for the backbone alone.
        seed: Seed of the modules; None for the backbone alone.
        text_recall: Exits of all images `[n]` -> R@1 of the texts in the gallery that they make, for fits on labelled
            validation images; None where images have labels and no captions.
        scores: Scores that policies have computed already, by policy and rate target.
    """

    keys: Sequence[str]
    summaries: Rows | Tensor
    cls_dim: int
    embeddings: Tensor
    bank: Tensor
    right: Tensor
    scale: float
    costs: ExitCosts
    modules: ExitModules | None
    seed: int | None
    text_recall: Callable[[Tensor], float] | None = None
    scores: dict[tuple[str, float], Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.embeddings)

    @cached_property
    def statistics(self) -> BankStatistics:
        """Bank statistics, computed once for all policies, in blocks of images."""
        size = max(1, BLOCK_ELEMENTS // (self.embeddings.shape[1] * len(self.bank)))
        parts = [bank_statistics(self.scale * z @ self.bank.T, self.scale) for z in self.embeddings.split(size)]
        return BankStatistics(*(torch.cat(column) for column in zip(*parts, strict=True)))

    @cached_property
    def last_exits_view(self) -> Tensor:
        """Probability that the last exit gives to each exit's best text `[n, E]` float64: what leaving there is worth.

        Of all that can be said without labels; at the last exit it is its largest probability.
        """
        size = max(1, BLOCK_ELEMENTS // len(self.bank))
        parts = zip(self.embeddings[:, -1].split(size), self.statistics.winner.split(size), strict=True)
        return torch.cat([(self.scale * z @ self.bank.T).double().softmax(-1).gather(1, w) for z, w in parts])

    @cached_property
    @torch.no_grad()
    def bank_scores(self) -> Tensor:
        """Scores of the bank gates `[n, E-1]` float64, computed once for all rate targets, in blocks of images."""
        seen = self.statistics
        columns = (self.summaries, seen.features, seen.first[:, :-1])
        parts = zip(*(column.split(ROWS) for column in columns), strict=True)
        return torch.cat([self.modules.bank_gates.scores(*part) for part in parts])


def bank_statistics(logits: Tensor, scale: float, last: bool = True) -> BankStatistics:
    """Statistics of scaled similarities `[n, E, M]`; a bank of one text is won without doubt.

    `last` says whether the last exit is among them, at which no gate asks for `bank_features`.
    """
    if logits.shape[-1] == 1:
        logits = F.pad(logits, (0, 1), value=-torch.inf)
    log_p = logits.double().log_softmax(-1)
    top = log_p.topk(2, dim=-1)
    first, second = top.values.exp().unbind(-1)
    entropy = -(log_p.exp() * log_p.clamp_min(-1e4)).sum(-1) / math.log(logits.shape[-1])
    features = bank_features(logits[:, :-1] if last else logits, scale)
    return BankStatistics(first, first - second, entropy, top.indices[..., 0], features)
