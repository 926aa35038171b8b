"""Exit heads, and gates that see only the image, with parameters for all exits (docs/method.md#the-module)."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgems.exits.bank_statistics import BankStatistics
from tgems.exits.per_exit_layers import ExitLinear, ExitNorm

LEAST_ADDED, NO_GAIN = 1e-6, -1e4  # of the rates that later exits add, and the gain per rate of those that add none


class ExitHeads(nn.Module):
    """Heads of all exits: `z = normalize(A u + MLP(u))`, `u = LayerNorm(s)`.

    Args:
        n_exits: Number of exits before the last block.
        summary_dim: `S`.
        hidden: Width of the MLP's hidden layer; 0 makes a head a linear map.
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
        """Embed summaries `[n, E, S]` as unit vectors `[n, E, D]`."""
        return self.embed_normalised(self.norm(summaries))

    def embed_normalised(self, u: Tensor) -> Tensor:
        """Embed the output of `norm` instead of summaries: `[n, E, S]` -> `[n, E, D]`."""
        z = self.linear(u)
        if self.architecture["hidden"]:
            z = z + self.down(F.gelu(self.up(u)))
        return F.normalize(z, dim=-1)

    @torch.no_grad()
    def fold(self, whitening: Tensor) -> None:
        """Fold whitening matrices `[E, S, S]` into the first layers of heads trained on whitened summaries."""
        for layer in (self.linear, *([self.up] if self.architecture["hidden"] else [])):
            layer.weight.copy_(whitening @ layer.weight)

    def at_exit(self, exit_index: int, summaries: Tensor) -> Tensor:
        """Embed the summaries of a single exit: `[n, S]` -> unit vectors `[n, D]` float32."""
        u, unpadded = self.norm.at_exit(exit_index, summaries), self.norm.unpadded_at(exit_index)
        z = self.linear.at_exit(exit_index, u, unpadded)
        if self.architecture["hidden"]:
            z = z + self.down.at_exit(exit_index, F.gelu(self.up.at_exit(exit_index, u, unpadded)))
        z = z.float()
        return z / torch.linalg.vector_norm(z, dim=-1, keepdim=True).clamp_min(1e-12)


class Gates(nn.Module):
    """Gates of all exits before the last, each of which scores an image: the higher, the sooner it leaves.

    Attributes:
        reads_bank: Whether a gate also sees the exit's similarities to a text bank.
        architecture: Arguments of the constructor, which rebuild the module from a file.
    """

    reads_bank: ClassVar[bool] = False
    architecture: dict[str, Any]

    def scores(self, summaries: Tensor, bank: BankStatistics | None) -> Tensor:
        """Score images at all exits.

        Args:
            summaries: `[n, E-1, S]`.
            bank: Statistics `[n, E-1]`; None for gates that do not read the bank.

        Returns:
            `[n, E-1]` float64.
        """
        raise NotImplementedError

    def scores_at(self, exit_index: int, summaries: Tensor, bank: BankStatistics | None) -> Tensor:
        """Score images at a single exit: summaries `[n, S]`, statistics `[n]` -> `[n]` float64."""
        raise NotImplementedError


class ImageGates(Gates):
    """Gates that compute one logit per exit from the image alone: `w . gelu(V u + v) + b`."""

    def __init__(
        self, n_exits: int, summary_dim: int, hidden: int, outputs: int = 1, widths: Sequence[int] | None = None
    ):
        super().__init__()
        self.architecture = {"n_exits": n_exits, "summary_dim": summary_dim, "hidden": hidden, "widths": widths}
        self.norm = ExitNorm(n_exits, summary_dim, widths)
        self.up = ExitLinear(n_exits, summary_dim, hidden)
        self.down = ExitLinear(n_exits, hidden, outputs)

    def forward(self, summaries: Tensor) -> Tensor:
        """Compute logits: summaries `[n, E, S]` -> `[n, E]`."""
        return self.outputs_of_normalised(self.norm(summaries)).squeeze(-1)

    def outputs_of_normalised(self, u: Tensor) -> Tensor:
        """Compute the outputs from the output of `norm` instead of summaries: `[n, E, S]` -> `[n, E, outputs]`."""
        return self.down(F.gelu(self.up(u)))

    def scores(self, summaries: Tensor, bank: BankStatistics | None) -> Tensor:
        """See `Gates.scores`."""
        return self(summaries).double()

    def scores_at(self, exit_index: int, summaries: Tensor, bank: BankStatistics | None) -> Tensor:
        """See `Gates.scores_at`."""
        return self._outputs_at(exit_index, summaries).squeeze(-1).double()

    def _outputs_at(self, exit_index: int, summaries: Tensor) -> Tensor:
        u, unpadded = self.norm.at_exit(exit_index, summaries), self.norm.unpadded_at(exit_index)
        hidden = F.gelu(self.up.at_exit(exit_index, u, unpadded))
        return self.down.at_exit(exit_index, hidden).float()


class LookaheadGates(ImageGates):
    """Image-guided gates, each of which predicts whether its own and every later exit is right (docs/method.md#gates).

    `a_l = (price - max_{k > l} (p_k - p_l) / (r_k - r_l)) / temperature`: an image leaves where no later exit offers
    more accuracy for its cost than the price. The price is the Lagrange multiplier of the rate.

    Args:
        n_exits: Number of exits before the last.
        summary_dim: `S`.
        hidden: Hidden width.
        rates: Relative cost of every exit `[n_exits + 1]`, the last included.
        temperature: Temperature of the logits.
        widths: See `ExitNorm`.
    """

    rates: Tensor
    price: Tensor

    def __init__(
        self,
        n_exits: int,
        summary_dim: int,
        hidden: int,
        rates: Sequence[float],
        temperature: float = 0.05,
        widths: Sequence[int] | None = None,
    ):
        super().__init__(n_exits, summary_dim, hidden, n_exits + 1, widths)
        self.architecture |= {"rates": list(rates), "temperature": temperature}
        self.register_buffer("rates", torch.tensor(rates, dtype=torch.float32), persistent=False)
        self.register_buffer("price", torch.zeros(()))
        self.temperature = temperature
        self._known_later: tuple[Tensor, list[tuple[Tensor, Tensor | None]]] | None = None

    @property
    def added_rates(self) -> Tensor:
        """Relative cost that every exit adds to that of each exit before the last `[E-1, E]`."""
        return self.rates[None, :] - self.rates[:-1, None]

    def predict_correctness(self, summaries: Tensor) -> Tensor:
        """Compute the logits of being right at every exit: summaries `[n, E-1, S]` -> `[n, E-1, E]`.

        Each gate's predictions are meant for its own and later exits; those for earlier exits are not trained.
        """
        return self.outputs_of_normalised(self.norm(summaries))

    def forward(self, summaries: Tensor) -> Tensor:
        """Compute gate logits: summaries `[n, E-1, S]` -> `[n, E-1]`."""
        return self.decide(self.predict_correctness(summaries))

    def decide(self, correctness: Tensor) -> Tensor:
        """Turn the logits of `predict_correctness` `[n, E-1, E]` into gate logits `[n, E-1]`."""
        p, added = correctness.sigmoid(), self.added_rates
        gain = p - p.diagonal(dim1=1, dim2=2)[..., None]
        slope = (gain / added.clamp_min(LEAST_ADDED)).masked_fill(added <= 0, NO_GAIN).amax(-1)
        return (self.price - slope) / self.temperature

    def scores_at(self, exit_index: int, summaries: Tensor, bank: BankStatistics | None) -> Tensor:
        """See `Gates.scores_at`."""
        p = self._outputs_at(exit_index, summaries).sigmoid()
        added, cheaper = self._later(exit_index)
        later = p.narrow(1, exit_index + 1, added.shape[0])
        slope = (later - p.narrow(1, exit_index, 1)) / added
        if cheaper is not None:
            slope = slope.masked_fill(cheaper, NO_GAIN)
        return ((self.price - slope.amax(-1)) / self.temperature).double()

    def _later(self, exit_index: int) -> tuple[Tensor, Tensor | None]:
        """Rate that each later exit adds to this one's `[k]`, and a mask of those that add nothing; None if all add."""
        if self._known_later is None or self._known_later[0] is not self.rates:
            added = [row[k + 1 :] for k, row in enumerate(self.added_rates)]
            masks = [row <= 0 for row in added]
            on_cpu = self.rates.device.type == "cpu"  # elsewhere, a look at the masks would be a synchronisation
            needed = [None if on_cpu and not mask.any() else mask for mask in masks]
            added = [row.clamp_min(LEAST_ADDED) for row in added]
            self._known_later = self.rates, list(zip(added, needed, strict=True))
        return self._known_later[1][exit_index]
