"""Heads, and gates that see the image alone, for all exits at once (docs/method.md#the-module)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgems.exits.per_exit_layers import ExitLinear, ExitNorm


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
        return self.of_normalised(self.norm(summaries))

    def of_normalised(self, u: Tensor) -> Tensor:
        """Compute the embeddings from the output of `norm` instead of summaries: `[n, E, S]` -> `[n, E, D]`."""
        z = self.linear(u)
        if self.architecture["hidden"]:
            z = z + self.down(F.gelu(self.up(u)))
        return F.normalize(z, dim=-1)

    @torch.no_grad()
    def fold(self, whitening: Tensor) -> None:
        """Fold whitening matrices `[E, S, S]` into the first layers of heads trained on whitened summaries."""
        for layer in (self.linear, *([self.up] if self.architecture["hidden"] else [])):
            layer.weight.copy_(whitening @ layer.weight)

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
        return self.of_normalised(self.norm(summaries)).squeeze(-1)

    def of_normalised(self, u: Tensor) -> Tensor:
        """Compute the outputs from the output of `norm` instead of summaries: `[n, E, S]` -> `[n, E, outputs]`."""
        return self.down(F.gelu(self.up(u)))

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
        self.register_buffer("rates", torch.tensor(rates, dtype=torch.float32), persistent=False)
        self.register_buffer("price", torch.zeros(()))
        self.temperature = temperature

    @property
    def ahead(self) -> Tensor:
        """Additional relative cost of every exit over each exit before the last `[E-1, E]`."""
        return self.rates[None, :] - self.rates[:-1, None]

    def foresee(self, summaries: Tensor) -> Tensor:
        """Summaries `[n, E-1, S]` -> logits of being right at every exit `[n, E-1, E]`; earlier exits mean nothing."""
        return self.of_normalised(self.norm(summaries))

    def forward(self, summaries: Tensor) -> Tensor:
        """Summaries `[n, E-1, S]` -> gate logits `[n, E-1]`."""
        return self.decide(self.foresee(summaries))

    def decide(self, foreseen: Tensor) -> Tensor:
        """Logits of being right at every exit `[n, E-1, E]` -> gate logits `[n, E-1]`."""
        p = foreseen.sigmoid()
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
