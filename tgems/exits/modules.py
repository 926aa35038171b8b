"""The two parts of a T-GEM, for all exits at once: heads give embeddings, gates decide (docs/method.md#the-module)."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgems.exits.layers import ExitLinear, ExitNorm
from tgems.exits.sizes import PRICE_INPUTS, bank_gate_inputs

PRICES = (0.01, 6.0)


class ExitHeads(nn.Module):
    """Heads of all exits: `z = normalize(A u + MLP(u))`, `u = LayerNorm(s)`.

    Args:
        n_exits: Exits before the last block.
        summary_dim: `S`.
        hidden: Width of the MLP's hidden layer; 0 leaves the linear map alone.
        embed_dim: `D`.
        widths: See `ExitNorm`.
    """

    def __init__(
        self, n_exits: int, summary_dim: int, hidden: int, embed_dim: int, widths: Sequence[int] | None = None
    ):
        super().__init__()
        self.architecture = {"n_exits": n_exits, "summary_dim": summary_dim, "hidden": hidden, "embed_dim": embed_dim}
        self.architecture |= {"widths": widths}
        self.norm = ExitNorm(n_exits, summary_dim, widths)
        self.linear = ExitLinear(n_exits, summary_dim, embed_dim, bias=False)
        if hidden:
            self.up = ExitLinear(n_exits, summary_dim, hidden)
            self.down = ExitLinear(n_exits, hidden, embed_dim, zero=True)

    def forward(self, summaries: Tensor) -> Tensor:
        """Summaries `[n, E, S]` -> unit embeddings `[n, E, D]`."""
        u = self.norm(summaries)
        z = self.linear(u)
        if self.architecture["hidden"]:
            z = z + self.down(F.gelu(self.up(u)))
        return F.normalize(z, dim=-1)

    def alone(self, exit_: int) -> Callable[[Tensor], Tensor]:
        """One exit alone: summaries `[n, S]` -> unit embeddings `[n, D]` float32."""
        norm, true = self.norm.alone(exit_), self.norm.true_at(exit_)
        linear = self.linear.alone(exit_, true)
        if not self.architecture["hidden"]:
            return lambda summaries: F.normalize(linear(norm(summaries)).float(), dim=-1)
        up, down = self.up.alone(exit_, true), self.down.alone(exit_)

        def embed(summaries: Tensor) -> Tensor:
            u = norm(summaries)
            return F.normalize((linear(u) + down(F.gelu(up(u)))).float(), dim=-1)

        return embed


class ImageGates(nn.Module):
    """One number per exit from the image alone: `w . gelu(V u + v) + b`; what policy learned_confidence trains."""

    def __init__(
        self, n_exits: int, summary_dim: int, hidden: int, outputs: int = 1, widths: Sequence[int] | None = None
    ):
        super().__init__()
        self.architecture = {"n_exits": n_exits, "summary_dim": summary_dim, "hidden": hidden, "widths": widths}
        self.norm = ExitNorm(n_exits, summary_dim, widths)
        self.up = ExitLinear(n_exits, summary_dim, hidden)
        self.down = ExitLinear(n_exits, hidden, outputs)

    def forward(self, summaries: Tensor) -> Tensor:
        """Summaries `[n, E, S]` -> logits `[n, E]`."""
        return self.down(F.gelu(self.up(self.norm(summaries)))).squeeze(-1)

    def alone(self, exit_: int) -> Callable[[Tensor], Tensor]:
        """One exit alone: summaries `[n, S]` -> logits `[n]` float32."""
        outputs = self._outputs_alone(exit_)
        return lambda summaries: outputs(summaries).squeeze(-1)

    def _outputs_alone(self, exit_: int, outputs: slice = slice(None)) -> Callable[[Tensor], Tensor]:
        norm, up = self.norm.alone(exit_), self.up.alone(exit_, self.norm.true_at(exit_))
        down = self.down.alone(exit_, outputs=outputs)
        return lambda summaries: down(F.gelu(up(norm(summaries)))).float()


class LookaheadGates(ImageGates):
    """The image-guided gates: each foresees how probably every exit from its own on is right (docs/method.md#gates).

    `a_l = (price - max_{k > l} (p_k - p_l) / (r_k - r_l)) / temperature`: an image leaves where no later exit offers
    more accuracy for its cost than the price. The price is the Lagrange multiplier of the rate.

    Args:
        n_exits: Exits before the last.
        summary_dim: `S`.
        hidden: Hidden width.
        rates: Relative cost of every exit `[n_exits + 1]`, the last included.
        temperature: Of the logits.
        widths: See `ExitNorm`.
    """

    def __init__(
        self,
        n_exits: int,
        summary_dim: int,
        hidden: int,
        rates: list[float],
        temperature: float = 0.05,
        widths: Sequence[int] | None = None,
    ):
        super().__init__(n_exits, summary_dim, hidden, n_exits + 1, widths)
        self.architecture |= {"rates": list(rates), "temperature": temperature}
        r = torch.tensor(rates, dtype=torch.float32)
        self.register_buffer("ahead", r[None, :] - r[:-1, None], persistent=False)
        self.register_buffer("price", torch.zeros(()))
        self.temperature = temperature

    def foresee(self, summaries: Tensor) -> Tensor:
        """Summaries `[n, E-1, S]` -> logits of being right at every exit `[n, E-1, E]`; earlier exits mean nothing."""
        return super().forward(summaries)

    def forward(self, summaries: Tensor) -> Tensor:
        """Summaries `[n, E-1, S]` -> gate logits `[n, E-1]`."""
        p = self.foresee(summaries).sigmoid()
        gain = p - p.diagonal(dim1=1, dim2=2)[..., None]
        slope = (gain / self.ahead.clamp_min(1e-6)).masked_fill(self.ahead <= 0, -1e4).amax(-1)
        return (self.price - slope) / self.temperature

    def alone(self, exit_: int) -> Callable[[Tensor], Tensor]:
        """One exit alone: summaries `[n, S]` -> gate logits `[n]` float32."""
        foresee, ahead = self._outputs_alone(exit_, slice(exit_, None)), self.ahead[exit_, exit_ + 1 :].clamp_min(1e-6)

        def logits(summaries: Tensor) -> Tensor:
            p = foresee(summaries).sigmoid()
            return (self.price - ((p[:, 1:] - p[:, :1]) / ahead).amax(-1)) / self.temperature

        return logits


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
        return self.up(torch.cat((self.norm(summaries), bank), dim=-1))

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
        true = self.norm.true_at(exit_)
        if isinstance(true, Tensor):
            true = F.pad(true, (0, bank.shape[-1]), value=True)
        hidden = self.up.alone(exit_, true)(torch.cat((self.norm.alone(exit_)(summaries), bank), dim=-1))
        right = self.leave.alone(exit_)(F.gelu(hidden)).sigmoid()
        shifted = hidden[:, None] + _price_inputs(prices) @ self.shift[exit_]
        return self.stay.alone(exit_)(F.gelu(shifted)).squeeze(-1) - right

    def break_even_at(self, exit_: int, summaries: Tensor, bank: Tensor, grid: int = 40) -> Tensor:
        """`break_even_price` of one exit alone: `[n, S]`, `[n, 11]` -> `[n]` float64."""
        prices = torch.tensor(_price_grid(grid), device=summaries.device, dtype=summaries.dtype)
        return _break_even(self.gains_at(exit_, summaries, bank, prices).double())


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
