"""Gates that also see statistics of an exit's similarities to a text bank (docs/method.md#bank-guidance)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgems.costs.closed_form import BANK_FEATURES, PRICE_INPUTS, VARIANCE_GATE_INPUTS, bank_gate_inputs
from tgems.exits.bank_statistics import BankStatistics
from tgems.exits.modules import Gates
from tgems.exits.per_exit_layers import ExitLinear, ExitNorm

PRICES = (0.01, 6.0)
CONFIDENCE = 0.4  # weight of the log odds, chosen on validation images of the demo


class BankGuidedGates(Gates):
    """Gates whose hidden layer sees the summary and `bank_features` of one exit.

    Args:
        n_exits: Exits before the last.
        summary_dim: `S`.
        hidden: Hidden width.
        widths: See `ExitNorm`.
    """

    reads_bank = True

    def __init__(self, n_exits: int, summary_dim: int, hidden: int, widths: Sequence[int] | None = None):
        super().__init__()
        self.architecture = {"n_exits": n_exits, "summary_dim": summary_dim, "hidden": hidden, "widths": widths}
        self.norm = ExitNorm(n_exits, summary_dim, widths)
        self.up = ExitLinear(n_exits, bank_gate_inputs(summary_dim), hidden)

    def embed(self, summaries: Tensor, bank: Tensor) -> Tensor:
        """Compute the hidden layer before its activation: summaries `[n, E-1, S]`, `bank_features` -> `[n, E-1, h]`."""
        return self.embed_normalised(self.norm(summaries), bank)

    def embed_normalised(self, u: Tensor, bank: Tensor) -> Tensor:
        """Compute `embed` from the output of `norm` instead of summaries."""
        return self.up(torch.cat((u, bank), dim=-1))

    def embed_at(self, exit_index: int, summaries: Tensor, bank: Tensor) -> Tensor:
        """Compute `embed` at a single exit: `[n, S]`, `[n, 11]` -> `[n, h]`."""
        unpadded = self.norm.unpadded_at(exit_index)
        if isinstance(unpadded, Tensor):
            unpadded = F.pad(unpadded, (0, BANK_FEATURES), value=True)
        inputs = torch.cat((self.norm.at_exit(exit_index, summaries), bank.to(summaries.dtype)), dim=-1)
        return self.up.at_exit(exit_index, inputs, unpadded)


class BankGates(BankGuidedGates):
    """Bank-guided gates, which predict whether the exit's best text is right and what going on is worth at a price.

    A price shifts the hidden layer by a vector that is the same for all images (docs/method.md#bank-guidance). The
    score is minus the log of the break-even price, plus a share of the log odds of the best text, which are more
    reliable where texts are unlike the training captions.
    """

    def __init__(self, n_exits: int, summary_dim: int, hidden: int, widths: Sequence[int] | None = None):
        super().__init__(n_exits, summary_dim, hidden, widths)
        self.shift = nn.Parameter(torch.zeros(n_exits, PRICE_INPUTS, hidden))
        self.leave = ExitLinear(n_exits, hidden, 1)
        self.stay = ExitLinear(n_exits, hidden, 1)

    def scores(self, summaries: Tensor, bank: BankStatistics | None) -> Tensor:
        """See `Gates.scores`."""
        bank = required(bank)
        return CONFIDENCE * bank.first.logit(eps=1e-12) - break_even_price(self, summaries, bank.features)

    def scores_at(self, exit_index: int, summaries: Tensor, bank: BankStatistics | None) -> Tensor:
        """See `Gates.scores_at`."""
        bank = required(bank)
        odds = CONFIDENCE * bank.first.logit(eps=1e-12)
        return odds - self.break_even_at(exit_index, summaries, bank.features)

    def right(self, hidden: Tensor) -> Tensor:
        """Compute the logit of the exit's best text being right `[n, E-1]` from the hidden layer."""
        return self.leave(F.gelu(hidden)).squeeze(-1)

    def worth(self, hidden: Tensor, price: Tensor) -> Tensor:
        """Compute the worth of going on `[n, E-1]` at a price per image `[n]`, or one for all `[1]`."""
        shift = torch.einsum("nk,ekh->neh", _price_inputs(price), self.shift)
        return self.stay(F.gelu(hidden + shift)).squeeze(-1)

    def forward(self, summaries: Tensor, bank: Tensor, price: Tensor) -> Tensor:
        """Compute the gain of leaving over going on at a price `[n, E-1]`; an image leaves where it is positive."""
        hidden = self.embed(summaries, bank)
        return self.right(hidden).sigmoid() - self.worth(hidden, price)

    def gains_at(self, exit_index: int, summaries: Tensor, bank: Tensor, prices: Tensor) -> Tensor:
        """Compute the gain of going on over leaving at a single exit, at every price: `[n, S]`, `[g]` -> `[n, g]`."""
        hidden = self.embed_at(exit_index, summaries, bank)
        right = self.leave.at_exit(exit_index, F.gelu(hidden)).sigmoid()
        shifted = hidden[:, None] + _price_inputs(prices) @ self.shift[exit_index]
        return self.stay.at_exit(exit_index, F.gelu(shifted)).squeeze(-1) - right

    def break_even_at(self, exit_index: int, summaries: Tensor, bank: Tensor, grid: int = 40) -> Tensor:
        """Compute `break_even_price` at a single exit: `[n, S]`, `[n, 11]` -> `[n]` float64."""
        prices = torch.tensor(price_grid(grid), device=summaries.device, dtype=summaries.dtype)
        return _break_even(self.gains_at(exit_index, summaries, bank, prices).double())


class JointBankGates(BankGuidedGates):
    """Bank-guided gates that are trained together with the heads for one rate target: one number per exit."""

    def __init__(self, n_exits: int, summary_dim: int, hidden: int, widths: Sequence[int] | None = None):
        super().__init__(n_exits, summary_dim, hidden, widths)
        self.down = ExitLinear(n_exits, hidden, 1)

    def forward(self, summaries: Tensor, bank: Tensor) -> Tensor:
        """Compute gate logits: summaries `[n, E-1, S]` and `bank_features` -> `[n, E-1]`."""
        return self.decide_normalised(self.norm(summaries), bank)

    def decide_normalised(self, u: Tensor, bank: Tensor) -> Tensor:
        """Compute the gate logits from the output of `norm` instead of summaries."""
        return self.down(F.gelu(self.embed_normalised(u, bank))).squeeze(-1)

    def scores(self, summaries: Tensor, bank: BankStatistics | None) -> Tensor:
        """See `Gates.scores`: the gate logits."""
        return self(summaries, required(bank).features).double()

    def scores_at(self, exit_index: int, summaries: Tensor, bank: BankStatistics | None) -> Tensor:
        """See `Gates.scores_at`."""
        hidden = self.embed_at(exit_index, summaries, required(bank).features)
        return self.down.at_exit(exit_index, F.gelu(hidden)).squeeze(-1).double()


class ConfidenceAndVarianceGates(Gates):
    """Gates on three numbers per exit: largest probability, its margin, and the spatial variance of the image.

    A reconstruction of the gates of LRA-EE (arXiv 2605.26415); docs/method.md#policies states what it assumes.

    Args:
        n_exits: Number of exits before the last.
        summary_dim: `S`.
        hidden: Hidden width.
        part_width: Numbers of each part of a summary, padding included.
        widths: See `ExitNorm`.
    """

    reads_bank = True
    mean: Tensor
    deviation: Tensor

    def __init__(
        self, n_exits: int, summary_dim: int, hidden: int, part_width: int, widths: Sequence[int] | None = None
    ):
        super().__init__()
        self.architecture = {"n_exits": n_exits, "summary_dim": summary_dim, "hidden": hidden, "widths": widths}
        self.architecture |= {"part_width": part_width}
        self.up = ExitLinear(n_exits, VARIANCE_GATE_INPUTS, hidden)
        self.down = ExitLinear(n_exits, hidden, 1)
        self.register_buffer("mean", torch.zeros(n_exits, VARIANCE_GATE_INPUTS))
        self.register_buffer("deviation", torch.ones(n_exits, VARIANCE_GATE_INPUTS))
        self.part_width = part_width

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute logits of the best text being right: `inputs` `[n, E-1, 3]` -> `[n, E-1]`."""
        return self.down(F.gelu(self.up((inputs - self.mean) / self.deviation))).squeeze(-1)

    def inputs(self, summaries: Tensor, first: Tensor, margin: Tensor) -> Tensor:
        """Stack the three inputs: summaries `[..., S]`, probability and margin `[...]` -> `[..., 3]` float32."""
        variance = spatial_variance(summaries, self.part_width)
        return torch.stack((first.float(), margin.float(), variance.float()), -1)

    @torch.no_grad()
    def standardise(self, inputs: Tensor) -> None:
        """Fix the mean and the deviation that inputs are standardised by to those of `inputs` `[n, E-1, 3]`."""
        self.mean.copy_(inputs.mean(0))
        self.deviation.copy_(inputs.std(0).clamp_min(1e-6))

    def scores(self, summaries: Tensor, bank: BankStatistics | None) -> Tensor:
        """See `Gates.scores`."""
        bank = required(bank)
        return self(self.inputs(summaries, bank.first, bank.margin)).double()

    def scores_at(self, exit_index: int, summaries: Tensor, bank: BankStatistics | None) -> Tensor:
        """See `Gates.scores_at`."""
        bank = required(bank)
        inputs = self.inputs(summaries, bank.first, bank.margin).to(self.mean.dtype)
        inputs = (inputs - self.mean[exit_index]) / self.deviation[exit_index]
        hidden = F.gelu(self.up.at_exit(exit_index, inputs))
        return self.down.at_exit(exit_index, hidden).squeeze(-1).double()


def spatial_variance(summaries: Tensor, part_width: int) -> Tensor:
    """Compute how much the cells of a summary's grid differ: summaries `[..., S]` -> `[...]`.

    It is the variance over cells, averaged over the channels, relative to the mean square of the cells, so that it does
    not grow with the scale of the tokens from block to block. Padding adds nothing to either.
    """
    cells = summaries.unflatten(-1, (-1, part_width))[..., 1:, :]
    centred = cells - cells.mean(-2, keepdim=True)
    return centred.square().mean((-2, -1)) / cells.square().mean((-2, -1)).clamp_min(1e-12)


def required(bank: BankStatistics | None) -> BankStatistics:
    """Return the statistics that gates on a text bank need."""
    if bank is None:
        raise TypeError("gates that read the text bank were called without its statistics")
    return bank


def break_even_price(gates: BankGates, summaries: Tensor, bank: Tensor, grid: int = 40) -> Tensor:
    """Compute the log of the price of computation above which an image leaves, at every exit.

    Args:
        gates: Trained bank-guided gates.
        summaries: `[n, E-1, S]`.
        bank: `bank_features`.
        grid: Prices tried, log-uniform within `PRICES`; between them the gain of going on is interpolated.

    Returns:
        `[n, E-1]` float64; beyond the ends of `PRICES` it is extrapolated by the gain of going on at that end.
    """
    hidden = gates.embed(summaries, bank)
    right = gates.right(hidden).sigmoid()
    prices = price_grid(grid)
    return _break_even(torch.stack([(gates.worth(hidden, torch.tensor([p])) - right).double() for p in prices], -1))


def _price_inputs(price: Tensor) -> Tensor:
    """Turn prices into the inputs of a bank gate, polynomials of the logarithm: `[...] -> [..., 2]`."""
    x = price.log() / 2
    return torch.stack((x, x * x / 2), -1)


def price_grid(grid: int) -> list[float]:
    """Return `grid` prices of computation, log-uniform within `PRICES`."""
    low, high = PRICES
    return [low * math.exp(math.log(high / low) * step) for step in torch.linspace(0, 1, grid).tolist()]


def _break_even(gain: Tensor) -> Tensor:
    """Interpolate the log of the price at which the gain of going on `[..., grid]` falls through zero."""
    low, high = PRICES
    span, grid = math.log(high / low), gain.shape[-1]
    last = ((gain > 0) * torch.arange(1, grid + 1, device=gain.device)).amax(-1)
    left = (last - 1).clamp(0, grid - 2)
    above, below = gain.gather(-1, left[..., None])[..., 0], gain.gather(-1, left[..., None] + 1)[..., 0]
    inside = (left + (above / (above - below)).clamp(0, 1)) / (grid - 1)
    position = torch.where(last == 0, gain[..., 0].clamp(-1, 0), inside)
    position = torch.where(last == grid, 1 + gain[..., -1].clamp(0, 5), position)
    return math.log(low) + span * position
