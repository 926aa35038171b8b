"""Random outputs of four exits, for policies."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tgems.costs.exit_costs import ExitCosts
from tgems.exits.bank_modules import BankGates
from tgems.exits.modules import ExitHeads, ImageGates, LookaheadGates
from tgems.policies.exit_outputs import ExitModules, ExitOutputs

COSTS = ExitCosts((1, 2, 3, 4), (100, 200, 300, 410), (7,) * 3, (3,) * 3, (1,) * 3, (5,) * 3, 2, 6, (4,) * 3, 8)
TARGETS = [0.5, 0.8]


def random_outputs(seed: int, n: int = 12, bank: int = 5) -> ExitOutputs:
    """Random modules and embeddings of four exits, d = 4, D = 6."""
    torch.manual_seed(seed)
    image = {t: LookaheadGates(3, 8, 4, [0.25, 0.5, 0.75, 1.0]) for t in TARGETS}
    text, confidence = BankGates(3, 8, 4), ImageGates(3, 8, 4)
    for layer in (text.shift, text.leave.weight, text.stay.weight):
        nn.init.normal_(layer)
    modules = ExitModules(ExitHeads(3, 8, 4, 6), image, text, confidence)
    z = F.normalize(torch.randn(n, 4, 6), dim=-1)
    texts = F.normalize(torch.randn(bank, 6), dim=-1)
    right = (z @ texts.T).argmax(-1) == torch.randint(bank, (n, 1))
    keys = [f"image-{i}" for i in range(n)]
    return ExitOutputs(keys, torch.randn(n, 3, 8), 4, z, texts, right, 10.0, COSTS, modules, seed)


def subset(whole: ExitOutputs, rows: list[int]) -> ExitOutputs:
    """Some images of a batch."""
    parts = (whole.summaries[rows], whole.cls_dim, whole.embeddings[rows], whole.bank, whole.right[rows])
    keys = [whole.keys[i] for i in rows]
    return ExitOutputs(keys, *parts, whole.scale, whole.costs, whole.modules, whole.seed)


@pytest.fixture
def outputs():
    return random_outputs(0)
