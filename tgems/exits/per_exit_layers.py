"""Layers with parameters of their own per exit, all exits at once or one alone. Pure torch."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-5  # of F.layer_norm


class ExitNorm(nn.Module):
    """LayerNorm with its own scale and shift per exit: `[n, E, S] -> [n, E, S]`.

    Args:
        n_exits: Exits before the last.
        dim: `S`.
        widths: Unpadded width of each part of a summary, per exit; padding is ignored and zeroed in the output. None
            if all exits are equally wide.
    """

    def __init__(self, n_exits: int, dim: int, widths: Sequence[int] | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_exits, dim))
        self.bias = nn.Parameter(torch.zeros(n_exits, dim))
        true = None if widths is None else torch.arange(dim) % max(widths) < torch.tensor(widths)[:, None]
        self.register_buffer("true", true, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        if self.true is None:
            return F.layer_norm(x, x.shape[-1:]) * self.weight + self.bias
        size = self.true.sum(-1, keepdim=True)
        centred = (x - (x * self.true).sum(-1, keepdim=True) / size) * self.true
        normalised = centred * (centred.square().sum(-1, keepdim=True) / size + EPSILON).rsqrt()
        return (normalised * self.weight + self.bias) * self.true

    @property
    def true_size(self) -> Tensor:
        """Unpadded length of a summary, per exit `[E]`."""
        exits, dim = self.weight.shape
        return torch.full((exits,), dim) if self.true is None else self.true.sum(-1)

    def centre(self, mean: Tensor) -> None:
        """Fix scale and shift so that inputs whose normalised mean is `mean` `[E, S]` have the mean zero.

        The scale and shift would add nothing to the linear maps that follow. Training converges several times faster on
        centred inputs, because a large common component of all summaries makes their covariance ill-conditioned.
        """
        self.requires_grad_(False)
        self.weight.fill_(1)
        self.bias.copy_(-mean.detach())

    def alone(self, exit_: int) -> Callable[[Tensor], Tensor]:
        """The same for one exit alone, without what fills up: `[n, S] -> [n, true S]`."""
        true = self.true_at(exit_)
        weight, bias = self.weight[exit_, true], self.bias[exit_, true]
        if self.true is None:
            return lambda x: F.layer_norm(x, weight.shape, weight, bias)
        return lambda x: F.layer_norm(x[:, true], weight.shape, weight, bias)

    def true_at(self, exit_: int) -> Tensor | slice:
        """Which numbers of an exit's summary do not just fill up."""
        return slice(None) if self.true is None else self.true[exit_]


class ExitLinear(nn.Module):
    """A linear map of its own per exit: `[n, E, i] -> [n, E, o]`, one batched matrix product."""

    def __init__(self, n_exits: int, dim_in: int, dim_out: int, bias: bool = True, zero: bool = False):
        super().__init__()
        bound = 0.0 if zero else 1 / math.sqrt(dim_in)
        self.weight = nn.Parameter(torch.empty(n_exits, dim_in, dim_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(n_exits, dim_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply each exit's map."""
        y = torch.bmm(x.transpose(0, 1), self.weight).transpose(0, 1)
        return y if self.bias is None else y + self.bias

    def alone(
        self, exit_: int, true: Tensor | slice = slice(None), outputs: slice = slice(None)
    ) -> Callable[[Tensor], Tensor]:
        """The same for one exit alone, for some of its inputs and outputs: `[n, true i] -> [n, o]`."""
        weight = self.weight[exit_, true, outputs].T
        bias = None if self.bias is None else self.bias[exit_, outputs]
        return lambda x: F.linear(x, weight, bias)
