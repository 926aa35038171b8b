"""Training objectives of heads and gates, as pure functions (docs/method.md#training)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tgems.config.training import HeadOptions
from tgems.exits.text_losses import text_losses


def soft_targets(caption_ids: Tensor) -> Tensor:
    """Share the positive mass among equal captions: `[B] -> [B, B]`."""
    same = (caption_ids[:, None] == caption_ids[None, :]).float()
    return same / same.sum(1, keepdim=True)


def per_exit_losses(
    z: Tensor,
    z_last: Tensor,
    texts: Tensor,
    caption_ids: Tensor,
    scale: float,
    log_shares: Tensor,
    options: HeadOptions,
) -> Tensor:
    """Compute the losses of a batch of pairs at every exit, the last included (docs/method.md#heads).

    Args:
        z: Head embeddings `[B, E-1, D]`.
        z_last: The backbone's own embeddings `[B, D]`.
        texts: `[B, D]`.
        caption_ids: `[B]`.
        scale: Logit scale of the backbone.
        log_shares: Logarithm of the weight of each image at each exit in a mixed gallery `[E, B]`.
        options: Weights `text`, `similarity`, `distill`, and `mixed_gallery`: whether the text-to-image half of `text`
            meets images at all depths, instead of its own image's.

    Returns:
        `[E, B]`: the loss of image i and of text i, where image i leaves at exit e.
    """
    every = torch.cat((z.transpose(0, 1), z_last[None]))
    scores, teacher = scale * torch.matmul(every, texts.T), scale * z_last @ texts.T
    target = soft_targets(caption_ids)
    of_texts = text_losses(scores, teacher, target, log_shares, options.text, options.similarity, options.mixed_gallery)
    distance = 1 - (every * z_last).sum(-1)
    return of_texts.per_image + of_texts.per_text + options.distill * distance


def head_loss(
    z: Tensor, z_last: Tensor, texts: Tensor, caption_ids: Tensor, scale: float, shares: Tensor, options: HeadOptions
) -> Tensor:
    """Compute the loss of all heads on one batch: the mean of `per_exit_losses`, exits weighted by `shares` `[E]`."""
    log_shares = shares.log()[:, None].expand(-1, len(z))
    losses = per_exit_losses(z, z_last, texts, caption_ids, scale, log_shares, options)
    weights = shares[:-1] / shares[:-1].sum()
    return weights @ losses[:-1].mean(1)


def exit_weights(rates: Tensor, target: float) -> Tensor:
    """Return the exit distribution of highest entropy with a given mean rate: `p_l ~ exp(-beta r_l)`.

    Args:
        rates: Relative cost of every exit `[E]`, ascending.
        target: Mean rate; 0 gives equal weights.

    Returns:
        `[E]`, summing to 1; all at the cheapest or the last exit if the target is beyond it.
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
    """Turn gate logits `[n, E-1]` into log pi `[n, E]` by stick-breaking; the last exit takes the rest."""
    stay = F.logsigmoid(-gate_logits).cumsum(-1)
    before = F.pad(stay, (1, 0))
    return torch.cat((F.logsigmoid(gate_logits) + before[:, :-1], before[:, -1:]), -1)


class RateRegularizer:
    """The rate regularizer, which steers the expected rate R while gates are trained.

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
        """Return the term to add to the loss for a batch's expected rate `[]`, and move mu."""
        excess = rate - self.target
        if self.mode == "lambda":
            return self.weight * rate
        if self.mode == "penalty":
            return self.kappa * excess**2
        term = self.mu * excess + self.kappa / 2 * excess**2
        self.mu += self.eta * excess.item()
        return term
