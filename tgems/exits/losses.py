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


def mixed_gallery_loss(scores: Tensor, same: Tensor, shares: Tensor) -> Tensor:
    """Text-to-image loss in galleries whose images left anywhere: every other image stands at all exits at once.

    Text i meets its own image at one exit, and each other image at exit l with weight `shares[l]`; images whose
    caption equals its own are no negatives.

    Args:
        scores: Scaled similarities at every exit, the last included `[E, B images, B texts]`.
        same: Whether two captions are equal `[B, B]`.
        shares: Share of images at every exit, summing to 1 `[E]`.

    Returns:
        Loss of each text by the exit of its own image `[E, B]`.
    """
    weighted = scores + shares.log()[:, None, None]
    others = weighted.masked_fill(same, -torch.inf).logsumexp((0, 1))
    own = scores.diagonal(dim1=1, dim2=2)
    return torch.logaddexp(others.expand_as(own), own) - own


def similarity_distillation(scores: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of an exit's softmax over texts and images from the last exit's: `[E, B, B]`, `[B, B]` -> `[E]`."""
    losses = []
    for dim in (-1, -2):
        student, target = scores.log_softmax(dim), teacher.log_softmax(dim)
        losses.append((target.exp() * (target - student)).sum(dim).mean(-1))
    return (losses[0] + losses[1]) / 2


def head_loss(
    z: Tensor, z_last: Tensor, texts: Tensor, caption_ids: Tensor, scale: float, shares: Tensor, options: dict
) -> Tensor:
    """Loss of all heads on one batch (docs/method.md#heads).

    Args:
        z: Head embeddings `[B, E-1, D]`.
        z_last: The backbone's own embeddings `[B, D]`.
        texts: `[B, D]`.
        caption_ids: `[B]`.
        scale: Logit scale of the backbone.
        shares: Weight of every exit, summing to 1 `[E]`.
        options: Weights `text`, `similarity`, `distill`, and `mixed_gallery`: whether the text-to-image half of `text`
            meets images at all depths, instead of its own image's.
    """
    weights = shares[:-1] / shares[:-1].sum()
    scores, teacher = scale * torch.einsum("bed,md->ebm", z, texts), scale * z_last @ texts.T
    loss = torch.zeros(())
    if options["text"]:
        target = soft_targets(caption_ids)
        image_to_text = soft_cross_entropy(scores, target).mean(-1)
        if options["mixed_gallery"]:
            every = torch.cat((scores, teacher[None]))
            text_to_image = mixed_gallery_loss(every, target > 0, shares).mean(-1)[:-1]
        else:
            text_to_image = soft_cross_entropy(scores.transpose(-1, -2), target).mean(-1)
        loss = options["text"] * (weights @ (image_to_text + text_to_image))
    if options["similarity"]:
        loss = loss + options["similarity"] * (weights @ similarity_distillation(scores, teacher))
    if options["distill"]:
        loss = loss + options["distill"] * (weights @ (1 - (z * z_last[:, None]).sum(-1)).mean(0))
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
        mu: Multiplier to start with.
    """

    def __init__(self, mode: str, target: float, kappa: float, eta: float, weight: float = 1.0, mu: float = 0.0):
        if mode not in ("lagrangian", "penalty", "lambda"):
            raise ValueError(f"rate regularizer {mode!r} is unknown: expected lagrangian, penalty or lambda")
        self.mode, self.target, self.kappa, self.eta, self.weight = mode, target, kappa, eta, weight
        self.mu = mu

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
