"""Statistics of an exit's similarities to a bank of texts: probabilities, margin, entropy and inputs of bank gates."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class BankStatistics(NamedTuple):
    """Statistics of p = softmax(scale z T') over a bank of M texts, at one exit or at several.

    Attributes:
        first: Largest probability `[n, ...]` float64.
        margin: Its lead over the second `[n, ...]` float64; saturated probabilities still differ.
        entropy: Entropy divided by its maximum log M `[n, ...]` float64.
        winner: Index of the best text `[n, ...]` int64.
        features: `bank_features` `[n, ..., 11]` float32.
    """

    first: Tensor
    margin: Tensor
    entropy: Tensor
    winner: Tensor
    features: Tensor


def bank_statistics(logits: Tensor, scale: float) -> BankStatistics:
    """Compute the statistics of scaled similarities `[n, ..., M]`.

    In a bank of one text, that text has probability 1 and a margin of 1.

    Args:
        logits: Scaled similarities.
        scale: Logit scale.
    """
    if logits.shape[-1] == 1:
        logits = F.pad(logits, (0, 1), value=-math.inf)
    log_p = logits.double().log_softmax(-1)
    top = log_p.topk(2, dim=-1)
    first, second = top.values.exp().unbind(-1)
    entropy = -(log_p.exp() * log_p.clamp_min(-1e4)).sum(-1) / math.log(logits.shape[-1])
    return BankStatistics(first, first - second, entropy, top.indices[..., 0], bank_features(logits, scale))


def bank_features(logits: Tensor, scale: float) -> Tensor:
    """Compute the inputs of bank gates from the similarities of each exit alone, so that exits may be skipped.

    Args:
        logits: Scaled similarities `[n, E, M]`; -inf marks texts that are not in the bank.
        scale: Logit scale. A logit bias must not be among the logits: features hold the best cosine.

    Returns:
        `[n, E, 11]`: largest probability and its lead; log odds against it and its log; leads over the second, third
        and fourth text in logits; entropy over log M and by itself; largest similarity; size of the bank.
    """
    size = torch.isfinite(logits).sum(-1).clamp_min(2).float()
    top = logits.topk(min(4, logits.shape[-1]), dim=-1).values
    top = F.pad(top, (0, 4 - top.shape[-1]), value=-torch.inf)
    log_p = logits - logits.logsumexp(-1, keepdim=True)
    first, second = (top[..., :2] - logits.logsumexp(-1, keepdim=True)).exp().unbind(-1)
    entropy = -(log_p.exp() * log_p.clamp_min(-1e4)).sum(-1)
    leads = (top[..., :1] - top[..., 1:]).clamp(max=50) / 10
    columns = (
        *(first, first - second, ((1 - first).clamp_min(1e-6).log() + 3) / 4, first.clamp_min(1e-6).log() / 3),
        *(*leads.unbind(-1), entropy / size.log(), entropy / 3, top[..., 0] / scale * 2 - 1.5, size.log() / 5 - 0.6),
    )
    return torch.stack(columns, dim=-1)
