"""Toy training pairs, on which exit modules learn within a second, and costs of which only the sizes matter."""

import torch
from torch.nn import functional as F

from tgems.costs.exit_costs import GATES, ExitCosts
from tgems.exits.bank_modules import BankGates, ConfidenceAndVarianceGates
from tgems.exits.modules import Gates, ImageGates, LookaheadGates
from tgems.exits.training_pairs import Pairs


def toy_pairs(n: int = 600, seed: int = 0) -> Pairs:
    """Ten concepts; half of the images show theirs at the first exit already, the others only from the third."""
    generator = torch.Generator().manual_seed(seed)
    concept = torch.randint(10, (n,), generator=generator)
    texts = F.normalize(torch.randn(10, 8, generator=generator), dim=-1)
    early = torch.arange(n) % 2 == 0
    noise = torch.randn(n, 3, 8, generator=generator)
    clear = texts[concept][:, None] * 4 + 0.3 * noise
    shown = torch.where(early[:, None, None] | (torch.arange(3) >= 2)[None, :, None], clear, noise)
    flag = torch.where(early, 3.0, -3.0)[:, None, None].expand(n, 3, 2)
    last = F.normalize(texts[concept] + 0.02 * noise[:, 0], dim=-1)
    return Pairs(torch.cat((shown, flag), -1), last, texts, torch.arange(n + 1), concept, concept, 20.0)


def costs_of_sizes(widths: list[int], summary_dim: int, embed_dim: int) -> ExitCosts:
    """Costs of exits after every block, each block as expensive as the first."""
    n = len(widths)
    gates = {kind: (1,) * n for kind in GATES}
    blocks = tuple(range(1, n + 2))
    return ExitCosts(blocks, tuple(100 * b for b in blocks), (1,) * n, gates, 1, embed_dim, tuple(widths), summary_dim)


def gates_of_all_kinds(
    n_exits: int, part_width: int, targets: list[float], rates: list[float], hidden: int = 4
) -> dict[tuple[str, float | None], Gates]:
    """Untrained gates on summaries of the whole image and four cells, in the order in which they are drawn."""
    dim = 5 * part_width
    gates: dict[tuple[str, float | None], Gates] = {
        ("image", target): LookaheadGates(n_exits, dim, hidden, rates) for target in targets
    }
    gates["bank", None] = BankGates(n_exits, dim, hidden)
    gates["confidence", None] = ImageGates(n_exits, dim, hidden)
    gates["router", None] = ImageGates(n_exits, dim, hidden)
    gates["variance", None] = ConfidenceAndVarianceGates(n_exits, dim, hidden, part_width)
    return gates
