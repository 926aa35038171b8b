"""The two parts of a T-GEM, for all exits at once: heads give embeddings, gates decide (docs/method.md#the-module)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgems.exits.sizes import BANK_HISTORY, bank_gate_inputs


class ExitNorm(nn.Module):
    """LayerNorm with its own scale and shift per exit: `[n, E, S] -> [n, E, S]`."""

    def __init__(self, n_exits: int, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_exits, dim))
        self.bias = nn.Parameter(torch.zeros(n_exits, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return F.layer_norm(x, x.shape[-1:]) * self.weight + self.bias


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


class ExitHeads(nn.Module):
    """Heads of all exits: `z = normalize(A u + MLP(u))`, `u = LayerNorm(s)`.

    Args:
        n_exits: Exits before the last block.
        summary_dim: `2d`.
        hidden: Width of the MLP's hidden layer; 0 leaves the linear map alone.
        embed_dim: `D`.
    """

    def __init__(self, n_exits: int, summary_dim: int, hidden: int, embed_dim: int):
        super().__init__()
        self.architecture = {"n_exits": n_exits, "summary_dim": summary_dim, "hidden": hidden, "embed_dim": embed_dim}
        self.norm = ExitNorm(n_exits, summary_dim)
        self.linear = ExitLinear(n_exits, summary_dim, embed_dim, bias=False)
        if hidden:
            self.up = ExitLinear(n_exits, summary_dim, hidden)
            self.down = ExitLinear(n_exits, hidden, embed_dim, zero=True)

    def forward(self, summaries: Tensor) -> Tensor:
        """Summaries `[n, E, 2d]` -> unit embeddings `[n, E, D]`."""
        u = self.norm(summaries)
        z = self.linear(u)
        if self.architecture["hidden"]:
            z = z + self.down(F.gelu(self.up(u)))
        return F.normalize(z, dim=-1)


class ImageGates(nn.Module):
    """Gates that see the image alone: `a = w . gelu(V u + v) + b`."""

    def __init__(self, n_exits: int, summary_dim: int, hidden: int):
        super().__init__()
        self.architecture = {"n_exits": n_exits, "summary_dim": summary_dim, "hidden": hidden}
        self.norm = ExitNorm(n_exits, summary_dim)
        self.up = ExitLinear(n_exits, summary_dim, hidden)
        self.down = ExitLinear(n_exits, hidden, 1, zero=True)

    def forward(self, summaries: Tensor) -> Tensor:
        """Summaries `[n, E, 2d]` -> gate logits `[n, E]`."""
        return self.down(F.gelu(self.up(self.norm(summaries)))).squeeze(-1)


class BankGates(nn.Module):
    """Gates that also see what the embedding says about a text bank; they predict two logits per exit.

    `p`: the top-1 text is right if the image leaves here; `q`: it will be right at the last exit.
    """

    def __init__(self, n_exits: int, summary_dim: int, hidden: int):
        super().__init__()
        self.architecture = {"n_exits": n_exits, "summary_dim": summary_dim, "hidden": hidden}
        self.norm = ExitNorm(n_exits, summary_dim)
        self.up = ExitLinear(n_exits, bank_gate_inputs(summary_dim), hidden)
        self.down = ExitLinear(n_exits, hidden, 2)

    def forward(self, summaries: Tensor, bank: Tensor) -> Tensor:
        """Summaries `[n, E, 2d]` and `bank_history` features -> logits of p and q `[n, E, 2]`."""
        return self.down(F.gelu(self.up(torch.cat((self.norm(summaries), bank), dim=-1))))


def bank_features(logits: Tensor) -> Tensor:
    """What an exit's similarities say about a bank: `[n, E, M]` scaled logits (-inf: not in the bank) -> `[n, E, 5]`.

    Largest probability, its lead over the second, the same lead in logits (a tenth of it), entropy over its maximum,
    and whether the top-1 agrees with the previous exit's.
    """
    size = torch.isfinite(logits).sum(-1)
    top = logits.topk(2, dim=-1)
    log_z = logits.logsumexp(-1)
    first, second = (top.values - log_z[..., None]).exp().unbind(-1)
    log_p = logits - log_z[..., None]
    plogp = (log_p.exp() * log_p.clamp_min(-1e4)).sum(-1)
    entropy = -plogp / size.clamp_min(2).float().log()
    winner = top.indices[..., 0]
    agrees = torch.zeros_like(entropy)
    agrees[:, 1:] = (winner[:, 1:] == winner[:, :-1]).float()
    lead = (top.values[..., 0] - top.values[..., 1]).clamp(max=50) / 10
    return torch.stack((first, first - second, lead, entropy, agrees), dim=-1)


def bank_history(features: Tensor, bank_size: Tensor) -> Tensor:
    """Join each exit's bank features with those of the two before it and the bank's size.

    Args:
        features: `[n, E, 5]`.
        bank_size: `[n]` or `[]`, texts in the bank.

    Returns:
        `[n, E, 16]`; exits before the first count as zeros.
    """
    n, exits, _ = features.shape
    past = [F.pad(features, (0, 0, k, 0))[:, :exits] for k in range(BANK_HISTORY)]
    size = (bank_size.float().log() / 5 - 0.6).expand(n)[:, None, None].expand(n, exits, 1)
    return torch.cat((*past, size), dim=-1)
