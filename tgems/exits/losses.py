"""Training objectives of heads and gates, as pure functions (docs/method.md#training)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def soft_targets(caption_ids: Tensor) -> Tensor:
    """`[B] -> [B, B]`: equal captions share the positive mass."""
    same = (caption_ids[:, None] == caption_ids[None, :]).float()
    return same / same.sum(1, keepdim=True)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over the last dimension without reduction; `target` broadcasts."""
    return logits.logsumexp(-1) - (target * logits).sum(-1)


def contrastive(logits: Tensor, target: Tensor) -> Tensor:
    """Symmetric contrastive loss: `[..., B images, B texts]` logits -> `[...]`, mean over pairs."""
    image_to_text = soft_cross_entropy(logits, target)
    text_to_image = soft_cross_entropy(logits.transpose(-1, -2), target)
    return (image_to_text.mean(-1) + text_to_image.mean(-1)) / 2


def head_loss(
    z: Tensor,
    z_last: Tensor,
    texts: Tensor,
    target: Tensor,
    scale: float,
    drawn: Tensor,
    weights: Tensor,
    text: float,
    mixture: float,
    distill: float,
) -> Tensor:
    """Loss of all heads on one batch.

    Args:
        z: Head embeddings `[B, E, D]`.
        z_last: The backbone's own embeddings `[B, D]`.
        texts: `[B, D]`.
        target: `soft_targets`, `[B, B]`.
        scale: Logit scale of the backbone.
        drawn: Exit of each image for the mixture term `[B]`, 0-based, `E` for the last.
        weights: Weight of each exit before the last, summing to 1 `[E]`.
        text: Weight of the contrastive loss with texts at every exit.
        mixture: Weight of the mixture term, in which every image left at its drawn exit.
        distill: Weight of `1 - cos(z, z_last)`.
    """
    loss = torch.zeros(())
    if text:
        loss = text * weights @ contrastive(scale * torch.einsum("bed,md->ebm", z, texts), target)
    if mixture:
        everywhere = torch.cat((z, z_last[:, None]), 1)
        mixed = everywhere[torch.arange(len(z)), drawn]
        loss = loss + mixture * contrastive(scale * mixed @ texts.T, target)
    if distill:
        loss = loss + distill * (weights @ (1 - (z * z_last[:, None]).sum(-1)).mean(0))
    return loss


def exit_weights(rates: Tensor, target: float) -> Tensor:
    """The exit distribution of highest entropy with a given mean rate: `p_l ~ exp(-beta r_l)`.

    Args:
        rates: Relative cost of every exit `[E]`, ascending.
        target: Mean rate; 0 gives equal weights.

    Returns:
        `[E]`, summing to 1; the cheapest or the last exit alone where the target is beyond it.
    """
    if not target:
        return torch.full_like(rates, 1 / len(rates))
    low, high = -200.0, 200.0
    for _ in range(60):
        beta = (low + high) / 2
        weights = (-beta * rates).softmax(0)
        low, high = (beta, high) if weights @ rates > target else (low, beta)
    return weights


def image_to_text_loss(z: Tensor, texts: Tensor, target: Tensor, scale: float) -> Tensor:
    """Per pair and exit, against all texts of the batch: `z [B, E, D] -> [B, E]`."""
    return soft_cross_entropy(scale * torch.einsum("bed,md->bem", z, texts), target[:, None])


def text_to_image_loss(z: Tensor, mixed: Tensor, texts: Tensor, target: Tensor, scale: float) -> Tensor:
    """Per pair and exit, in a gallery where the others left elsewhere.

    Text i is scored against `z[i, l]` and, for the other images j, against `mixed[j]`. Images whose caption equals
    that of i are no negatives.

    Args:
        z: `[B, E, D]`.
        mixed: Embeddings of the images at drawn exits `[B, D]`.
        texts: `[B, D]`.
        target: `soft_targets`, `[B, B]`.
        scale: Logit scale.

    Returns:
        `[B, E]`.
    """
    others = (scale * texts @ mixed.T).masked_fill(target > 0, -torch.inf).logsumexp(-1)
    own = scale * torch.einsum("bed,bd->be", z, texts)
    return torch.logaddexp(others[:, None], own) - own


def exit_log_probabilities(gate_logits: Tensor) -> Tensor:
    """Stick-breaking: gate logits `[n, E-1]` -> log pi `[n, E]`; the last exit takes the rest."""
    stay = F.logsigmoid(-gate_logits).cumsum(-1)
    before = F.pad(stay, (1, 0))
    return torch.cat((F.logsigmoid(gate_logits) + before[:, :-1], before[:, -1:]), -1)


class RateRegularizer:
    """What steers the expected rate R while gates are trained.

    Args:
        mode: `lagrangian`: mu (R - rho) + kappa/2 (R - rho)^2 with mu ascending; `penalty`: kappa (R - rho)^2;
            `lambda`: lambda R.
        target: rho; not used by `lambda`.
        kappa: Weight of the square.
        eta: Step of mu.
        weight: lambda.
    """

    def __init__(self, mode: str, target: float, kappa: float, eta: float, weight: float = 1.0):
        if mode not in ("lagrangian", "penalty", "lambda"):
            raise ValueError(f"rate regularizer {mode!r} is unknown: expected lagrangian, penalty or lambda")
        self.mode, self.target, self.kappa, self.eta, self.weight = mode, target, kappa, eta, weight
        self.mu = 0.0

    def __call__(self, rate: Tensor) -> Tensor:
        """The term to add to the loss for a batch's expected rate `[]`; moves mu."""
        excess = rate - self.target
        if self.mode == "lambda":
            return self.weight * rate
        if self.mode == "penalty":
            return self.kappa * excess**2
        term = self.mu * excess + self.kappa / 2 * excess**2
        self.mu += self.eta * excess.item()
        return term
