"""Shortcuts that make visits of exits cheap change no result, and are never out of date."""

import copy

import pytest
import torch
from small_towers import ALL, small_tower

from tgems.exits.modules import LookaheadGates
from tgems.features.encode import summary_rows
from tgems.runtime.pooled_summaries import pooled_rows

EXITS, DIM = 4, 6
ASCENDING, CHEAPER_END = [0.2, 0.4, 0.6, 0.8, 1.0], [0.2, 0.6, 0.6, 1.2, 1.0]


def gates(rates, seed=0):
    torch.manual_seed(seed)
    made = LookaheadGates(EXITS, DIM, 5, rates).requires_grad_(False)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    made.price.fill_(0.7)
    return made.eval()


def differ(made, summaries):
    at_exits = [made.scores_at(k, summaries[:, k], None) for k in range(EXITS)]
    return (torch.stack(at_exits, 1) - made.scores(summaries, None)).abs().max()


@pytest.mark.parametrize("rates", [ASCENDING, CHEAPER_END])
def test_one_exit_scores_as_all_do(rates):
    """Also where later exits cost no more than an earlier one."""
    assert differ(gates(rates), torch.randn(50, EXITS, DIM)) < 1e-3


def test_scores_follow_every_change_of_the_module():
    """Moved and cast, loaded anew, changed in place, copied."""
    summaries, made = torch.randn(20, EXITS, DIM), gates(ASCENDING)
    assert differ(made, summaries) < 1e-3
    made.load_state_dict(gates(ASCENDING, seed=1).state_dict())
    assert differ(made, summaries) < 1e-3
    made.load_state_dict(gates(ASCENDING, seed=2).state_dict(), assign=True)
    assert differ(made, summaries) < 1e-3
    made.up.weight.data.mul_(0.5)
    made.price.data.fill_(-0.2)
    assert differ(made, summaries) < 1e-3
    other = copy.deepcopy(made)
    other.down.weight.data.mul_(2)
    assert differ(other, summaries) < 1e-3 and differ(made, summaries) < 1e-3
    assert differ(made.double(), summaries.double()) < 1e-3
    made.float().rates = torch.tensor(CHEAPER_END)
    assert differ(made, summaries) < 1e-3


@pytest.mark.parametrize("grid", [0, 1, 2, 3])
@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_one_product_summarises_as_the_tower_does(name, grid):
    tower = small_tower(name)
    state = tower.block(0, tower.stem(torch.randn(2, 3, *tower.image_size)))
    for _ in range(2):  # the matrix is made once
        expected = summary_rows(tower, state, tower.widths[0], [grid])
        assert torch.allclose(pooled_rows(tower, state, tower.widths[0], grid), expected, atol=1e-5)
    wider = tower.widths[0] + 3
    padded = summary_rows(tower, state, wider, [grid])
    assert torch.equal(pooled_rows(tower, state, wider, grid), padded), "padding"
