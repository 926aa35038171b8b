"""Gates that also see what an exit's embedding says about a text bank (docs/method.md#bank-guidance)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgems.costs.closed_form import BANK_FEATURES, PRICE_INPUTS, bank_gate_inputs
from tgems.exits.per_exit_layers import ExitLinear, ExitNorm

PRICES = (0.01, 6.0)
CONFIDENCE = 0.4  # weight of the log odds, chosen on validation images of the demo


class _GatesOnBank(nn.Module):
    """Gates whose hidden layer sees the summary and `bank_features` of one exit.

    Args:
        n_exits: Exits before the last.
        summary_dim: `S`.
        hidden: Hidden width.
        widths: See `ExitNorm`.
    """

    def __init__(self, n_exits: int, summary_dim: int, hidden: int, widths: Sequence[int] | None = None):
        super().__init__()
        self.architecture = {"n_exits": n_exits, "summary_dim": summary_dim, "hidden": hidden, "widths": widths}
        self.norm = ExitNorm(n_exits, summary_dim, widths)
        self.up = ExitLinear(n_exits, bank_gate_inputs(summary_dim), hidden)

    def embed(self, summaries: Tensor, bank: Tensor) -> Tensor:
        """Summaries `[n, E-1, S]` and `bank_features` -> hidden layer before its activation `[n, E-1, h]`."""
        return self.embed_normalised(self.norm(summaries), bank)

    def embed_normalised(self, u: Tensor, bank: Tensor) -> Tensor:
        """Compute `embed` from the output of `norm` instead of summaries."""
        return self.up(torch.cat((u, bank), dim=-1))

    def embed_at(self, exit_: int, summaries: Tensor, bank: Tensor) -> Tensor:
        """Compute `embed` at one exit alone: `[n, S]`, `[n, 11]` -> `[n, h]`."""
        true = self.norm.true_at(exit_)
        if isinstance(true, Tensor):
            true = F.pad(true, (0, BANK_FEATURES), value=True)
        return self.up.alone(exit_, true)(torch.cat((self.norm.alone(exit_)(summaries), bank), dim=-1))

    def scores(self, summaries: Tensor, bank: Tensor, first: Tensor) -> Tensor:
        """Score of leaving at each exit; an image leaves where it exceeds the policy's threshold.

        Args:
            summaries: `[n, E-1, S]`.
            bank: `bank_features` `[n, E-1, 11]`.
            first: Largest probability over the bank `[n, E-1]` float64.

        Returns:
            `[n, E-1]` float64.
        """
        raise NotImplementedError

    def scores_at(self, exit_: int, summaries: Tensor, bank: Tensor, first: Tensor) -> Tensor:
        """Compute `scores` at one exit alone: `[n, S]`, `[n, 11]`, `[n]` -> `[n]` float64."""
        raise NotImplementedError


class BankGates(_GatesOnBank):
    """The bank-guided gates: is the exit's best text right, and what is going on worth at a price of computation?

    A price shifts the hidden layer by a vector that is the same for all images (docs/method.md#bank-guidance). The
    score is minus the log of the break-even price, plus a share of the log odds of the best text, which hold where
    texts are unlike those of the training.
    """

    def __init__(self, n_exits: int, summary_dim: int, hidden: int, widths: Sequence[int] | None = None):
        super().__init__(n_exits, summary_dim, hidden, widths)
        self.shift = nn.Parameter(torch.zeros(n_exits, PRICE_INPUTS, hidden))
        self.leave = ExitLinear(n_exits, hidden, 1)
        self.stay = ExitLinear(n_exits, hidden, 1)

    def scores(self, summaries: Tensor, bank: Tensor, first: Tensor) -> Tensor:
        """See `_GatesOnBank.scores`."""
        return CONFIDENCE * first.logit(eps=1e-12) - break_even_price(self, summaries, bank)

    def scores_at(self, exit_: int, summaries: Tensor, bank: Tensor, first: Tensor) -> Tensor:
        """See `_GatesOnBank.scores_at`."""
        return CONFIDENCE * first.logit(eps=1e-12) - self.break_even_at(exit_, summaries, bank)

    def right(self, hidden: Tensor) -> Tensor:
        """Hidden layer -> logit of the exit's best text being right `[n, E-1]`."""
        return self.leave(F.gelu(hidden)).squeeze(-1)

    def worth(self, hidden: Tensor, price: Tensor) -> Tensor:
        """Hidden layer, price for each image `[n]` or for all `[1]` -> worth of going on `[n, E-1]`."""
        shift = torch.einsum("nk,ekh->neh", _price_inputs(price), self.shift)
        return self.stay(F.gelu(hidden + shift)).squeeze(-1)

    def forward(self, summaries: Tensor, bank: Tensor, price: Tensor) -> Tensor:
        """What leaving gains over going on, at a price: `[n, E-1]`; an image leaves where it is positive."""
        hidden = self.embed(summaries, bank)
        return self.right(hidden).sigmoid() - self.worth(hidden, price)

    def gains_at(self, exit_: int, summaries: Tensor, bank: Tensor, prices: Tensor) -> Tensor:
        """What going on gains over leaving at one exit, for every image and price: `[n, S]`, `[g]` -> `[n, g]`."""
        hidden = self.embed_at(exit_, summaries, bank)
        right = self.leave.alone(exit_)(F.gelu(hidden)).sigmoid()
        shifted = hidden[:, None] + _price_inputs(prices) @ self.shift[exit_]
        return self.stay.alone(exit_)(F.gelu(shifted)).squeeze(-1) - right

    def break_even_at(self, exit_: int, summaries: Tensor, bank: Tensor, grid: int = 40) -> Tensor:
        """Compute `break_even_price` at one exit alone: `[n, S]`, `[n, 11]` -> `[n]` float64."""
        prices = torch.tensor(_price_grid(grid), device=summaries.device, dtype=summaries.dtype)
        return _break_even(self.gains_at(exit_, summaries, bank, prices).double())


class JointBankGates(_GatesOnBank):
    """Bank-guided gates that are trained together with the heads for one rate target: one number per exit."""

    def __init__(self, n_exits: int, summary_dim: int, hidden: int, widths: Sequence[int] | None = None):
        super().__init__(n_exits, summary_dim, hidden, widths)
        self.down = ExitLinear(n_exits, hidden, 1)

    def forward(self, summaries: Tensor, bank: Tensor) -> Tensor:
        """Summaries `[n, E-1, S]` and `bank_features` -> gate logits `[n, E-1]`."""
        return self.decide_normalised(self.norm(summaries), bank)

    def decide_normalised(self, u: Tensor, bank: Tensor) -> Tensor:
        """Compute the gate logits from the output of `norm` instead of summaries."""
        return self.down(F.gelu(self.embed_normalised(u, bank))).squeeze(-1)

    def scores(self, summaries: Tensor, bank: Tensor, first: Tensor) -> Tensor:
        """See `_GatesOnBank.scores`: the gate logits; `first` is not used."""
        return self(summaries, bank).double()

    def scores_at(self, exit_: int, summaries: Tensor, bank: Tensor, first: Tensor) -> Tensor:
        """See `_GatesOnBank.scores_at`."""
        return self.down.alone(exit_)(F.gelu(self.embed_at(exit_, summaries, bank))).squeeze(-1).double()


def break_even_price(gates: BankGates, summaries: Tensor, bank: Tensor, grid: int = 40) -> Tensor:
    """Log of the price of computation from which on an image leaves, at every exit.

    Args:
        gates: Trained.
        summaries: `[n, E-1, S]`.
        bank: `bank_features`.
        grid: Prices tried, log-uniform within `PRICES`; between them the gain of going on is interpolated.

    Returns:
        `[n, E-1]` float64; beyond the ends of `PRICES` continued by what going on gains there.
    """
    hidden = gates.embed(summaries, bank)
    right = gates.right(hidden).sigmoid()
    prices = _price_grid(grid)
    return _break_even(torch.stack([(gates.worth(hidden, torch.tensor([p])) - right).double() for p in prices], -1))


def _price_inputs(price: Tensor) -> Tensor:
    """Turn prices into the inputs of a bank gate, polynomials of the logarithm: `[...] -> [..., 2]`."""
    x = price.log() / 2
    return torch.stack((x, x * x / 2), -1)


def _price_grid(grid: int) -> list[float]:
    low, high = PRICES
    return [low * math.exp(math.log(high / low) * step) for step in torch.linspace(0, 1, grid).tolist()]


def _break_even(gain: Tensor) -> Tensor:
    """Log of the price where what going on gains `[..., grid]` falls through zero, interpolated."""
    low, high = PRICES
    span, grid = math.log(high / low), gain.shape[-1]
    last = ((gain > 0) * torch.arange(1, grid + 1, device=gain.device)).amax(-1)
    left = (last - 1).clamp(0, grid - 2)
    above, below = gain.gather(-1, left[..., None])[..., 0], gain.gather(-1, left[..., None] + 1)[..., 0]
    inside = (left + (above / (above - below)).clamp(0, 1)) / (grid - 1)
    position = torch.where(last == 0, gain[..., 0].clamp(-1, 0), inside)
    position = torch.where(last == grid, 1 + gain[..., -1].clamp(0, 5), position)
    return math.log(low) + span * position


def bank_features(logits: Tensor, scale: float) -> Tensor:
    """What an exit's similarities say about a bank, by that exit alone, so that exits may be passed over unseen.

    Args:
        logits: Scaled similarities `[n, E, M]`; -inf is not in the bank.
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
