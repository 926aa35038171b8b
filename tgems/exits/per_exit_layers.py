"""Layers with separate parameters for each exit, applied at all exits at once or at a single one. Pure torch."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-5  # of F.layer_norm


class ExitNorm(nn.Module):
    """LayerNorm with a separate scale and shift for each exit: `[n, E, S] -> [n, E, S]`.

    Args:
        n_exits: Number of exits before the last.
        dim: `S`.
        widths: Unpadded width of each part of a summary, per exit; padding is ignored and zeroed in the output. None
            if all exits are equally wide.
    """

    mask: Tensor | None

    def __init__(self, n_exits: int, dim: int, widths: Sequence[int] | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_exits, dim))
        self.bias = nn.Parameter(torch.zeros(n_exits, dim))
        mask = None if widths is None else torch.arange(dim) % max(widths) < torch.tensor(widths)[:, None]
        self.register_buffer("mask", mask, persistent=False)
        self._padded = mask is not None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        if self.mask is None:
            return F.layer_norm(x, x.shape[-1:]) * self.weight + self.bias
        size = self.mask.sum(-1, keepdim=True)
        centred = (x - (x * self.mask).sum(-1, keepdim=True) / size) * self.mask
        normalised = centred * (centred.square().sum(-1, keepdim=True) / size + EPSILON).rsqrt()
        return (normalised * self.weight + self.bias) * self.mask

    @property
    def unpadded_size(self) -> Tensor:
        """Unpadded length of a summary, per exit `[E]`."""
        exits, dim = self.weight.shape
        return torch.full((exits,), dim) if self.mask is None else self.mask.sum(-1)

    def centre(self, mean: Tensor) -> None:
        """Fix scale and shift so that inputs whose normalised mean is `mean` `[E, S]` have the mean zero.

        The scale and shift would add nothing to the linear maps that follow. Training converges several times faster on
        centred inputs, because a large common component of all summaries makes their covariance ill-conditioned.
        """
        self.requires_grad_(False)
        self.weight.fill_(1)
        self.bias.copy_(-mean.detach())

    def at_exit(self, exit_index: int, x: Tensor) -> Tensor:
        """Normalise the summaries of a single exit and drop their padding: `[n, S] -> [n, unpadded S]`."""
        if not self._padded:
            return torch.layer_norm(x, x.shape[1:], self.weight.select(0, exit_index), self.bias.select(0, exit_index))
        unpadded = self.unpadded_at(exit_index)
        weight, bias = self.weight[exit_index, unpadded], self.bias[exit_index, unpadded]
        return F.layer_norm(x[:, unpadded], weight.shape, weight, bias)

    def unpadded_at(self, exit_index: int) -> Tensor | None:
        """Mask of the numbers of an exit's summary that are not padding; None if all are."""
        return self.mask[exit_index] if self._padded and self.mask is not None else None


class ExitLinear(nn.Module):
    """A separate linear map for each exit, as one batched matrix product: `[n, E, i] -> [n, E, o]`."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, n_exits: int, dim_in: int, dim_out: int, bias: bool = True, zero: bool = False):
        super().__init__()
        bound = 0.0 if zero else 1 / math.sqrt(dim_in)
        self.weight = nn.Parameter(torch.empty(n_exits, dim_in, dim_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(n_exits, dim_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply each exit's map."""
        y = torch.bmm(x.transpose(0, 1), self.weight).transpose(0, 1)
        return y if self.bias is None else y + self.bias

    def at_exit(self, exit_index: int, x: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Apply the map of a single exit: `[..., i] -> [..., o]`.

        Args:
            exit_index: Exit (0-based).
            x: The chosen inputs.
            inputs: Which of the map's inputs `x` holds; None for all.
        """
        weight, bias = self.weight.select(0, exit_index), self.bias
        if inputs is not None:
            weight = weight[inputs]
        if bias is None:
            return x @ weight
        bias = bias.select(0, exit_index)
        return torch.addmm(bias, x, weight) if x.dim() == 2 else F.linear(x, weight.T, bias)
