"""Random outputs of four exits, for policies."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toy import gates_of_all_kinds

from tgems.costs.exit_costs import ExitCosts
from tgems.exits.modules import ExitHeads
from tgems.policies.cached_outputs import CachedOutputs, ExitModules

GATES = {"image": (3,) * 3, "bank": (5,) * 3, "confidence": (1,) * 3, "variance": (6,) * 3, "router": (4,) * 3}
COSTS = ExitCosts((1, 2, 3, 4), (100, 200, 300, 410), (7,) * 3, GATES, 2, 6, (4,) * 3, 20)
TARGETS = [0.5, 0.8]


def random_outputs(seed: int, n: int = 12, bank: int = 5) -> CachedOutputs:
    """Random modules and embeddings of four exits, d = 4, D = 6."""
    torch.manual_seed(seed)
    gates = gates_of_all_kinds(3, 4, TARGETS, [0.25, 0.5, 0.75, 1.0])
    text = gates["bank", None]
    for layer in (text.shift, text.leave.weight, text.stay.weight):
        nn.init.normal_(layer)
    modules = ExitModules(ExitHeads(3, 20, 4, 6), gates)
    z = F.normalize(torch.randn(n, 4, 6), dim=-1)
    texts = F.normalize(torch.randn(bank, 6), dim=-1)
    right = (z @ texts.T).argmax(-1) == torch.randint(bank, (n, 1))
    keys = [f"image-{i}" for i in range(n)]
    return CachedOutputs(keys, torch.randn(n, 3, 20), z, texts, right, 10.0, COSTS, modules, seed)


def subset(whole: CachedOutputs, rows: list[int]) -> CachedOutputs:
    """Some images of a batch."""
    parts = (whole.summaries[rows], whole.embeddings[rows], whole.bank, whole.right[rows])
    keys = [whole.keys[i] for i in rows]
    return CachedOutputs(keys, *parts, whole.scale, whole.costs, whole.modules, whole.seed)


@pytest.fixture
def outputs():
    return random_outputs(0)
