"""Gates that also see what an exit's embedding says about a text bank (docs/method.md#bank-guidance)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgems.exits.layers import ExitLinear, ExitNorm
from tgems.exits.sizes import BANK_FEATURES, PRICE_INPUTS, bank_gate_inputs

PRICES = (0.01, 6.0)


class BankGates(nn.Module):
    """The bank-guided gates: is the exit's best text right, and what is going on worth at a price of computation?

    Both see the summary and `bank_features` of one exit. A price shifts the hidden layer by a vector that is the same
    for all images (docs/method.md#bank-guidance).
    """

    def __init__(self, n_exits: int, summary_dim: int, hidden: int, widths: Sequence[int] | None = None):
        super().__init__()
        self.architecture = {"n_exits": n_exits, "summary_dim": summary_dim, "hidden": hidden, "widths": widths}
        self.norm = ExitNorm(n_exits, summary_dim, widths)
        self.up = ExitLinear(n_exits, bank_gate_inputs(summary_dim), hidden)
        self.shift = nn.Parameter(torch.zeros(n_exits, PRICE_INPUTS, hidden))
        self.leave = ExitLinear(n_exits, hidden, 1)
        self.stay = ExitLinear(n_exits, hidden, 1)

    def embed(self, summaries: Tensor, bank: Tensor) -> Tensor:
        """Summaries `[n, E-1, S]` and `bank_features` -> hidden layer `[n, E-1, h]`, shared by all prices."""
        return self.embed_normalised(self.norm(summaries), bank)

    def embed_normalised(self, u: Tensor, bank: Tensor) -> Tensor:
        """The same for summaries that `norm` has normalised already."""
        return self.up(torch.cat((u, bank), dim=-1))

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
        true = with_bank_features(self.norm.true_at(exit_))
        hidden = self.up.alone(exit_, true)(torch.cat((self.norm.alone(exit_)(summaries), bank), dim=-1))
        right = self.leave.alone(exit_)(F.gelu(hidden)).sigmoid()
        shifted = hidden[:, None] + _price_inputs(prices) @ self.shift[exit_]
        return self.stay.alone(exit_)(F.gelu(shifted)).squeeze(-1) - right

    def break_even_at(self, exit_: int, summaries: Tensor, bank: Tensor, grid: int = 40) -> Tensor:
        """`break_even_price` of one exit alone: `[n, S]`, `[n, 11]` -> `[n]` float64."""
        prices = torch.tensor(_price_grid(grid), device=summaries.device, dtype=summaries.dtype)
        return _break_even(self.gains_at(exit_, summaries, bank, prices).double())


class JointBankGates(nn.Module):
    """Bank-guided gates that are trained together with the heads for one rate target: one number per exit.

    They see the summary and `bank_features` of one exit; an image leaves where the number is large enough.
    """

    def __init__(self, n_exits: int, summary_dim: int, hidden: int, widths: Sequence[int] | None = None):
        super().__init__()
        self.architecture = {"n_exits": n_exits, "summary_dim": summary_dim, "hidden": hidden, "widths": widths}
        self.norm = ExitNorm(n_exits, summary_dim, widths)
        self.up = ExitLinear(n_exits, bank_gate_inputs(summary_dim), hidden)
        self.down = ExitLinear(n_exits, hidden, 1)

    def forward(self, summaries: Tensor, bank: Tensor) -> Tensor:
        """Summaries `[n, E-1, S]` and `bank_features` -> gate logits `[n, E-1]`."""
        return self.decide_normalised(self.norm(summaries), bank)

    def decide_normalised(self, u: Tensor, bank: Tensor) -> Tensor:
        """The same for summaries that `norm` has normalised already."""
        return self.down(F.gelu(self.up(torch.cat((u, bank), dim=-1)))).squeeze(-1)

    def decide_at(self, exit_: int, summaries: Tensor, bank: Tensor) -> Tensor:
        """Gate logits of one exit alone: `[n, S]`, `[n, 11]` -> `[n]`."""
        true = with_bank_features(self.norm.true_at(exit_))
        inputs = torch.cat((self.norm.alone(exit_)(summaries), bank), dim=-1)
        return self.down.alone(exit_)(F.gelu(self.up.alone(exit_, true)(inputs))).squeeze(-1)


def with_bank_features(true: Tensor | slice) -> Tensor | slice:
    """Which inputs of a bank gate do not just fill up: those of the summary, and all bank features."""
    return F.pad(true, (0, BANK_FEATURES), value=True) if isinstance(true, Tensor) else true


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
    """What a bank gate sees of a price: `[...] -> [..., 2]`."""
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
        scale: Logit scale.

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
