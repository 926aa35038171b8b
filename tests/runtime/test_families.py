"""Early exit on every family of towers: the harness's embeddings, image by image, and costs to the last MAC."""

import pytest
import torch
from conftest import variant
from small_towers import ALL, small_tower
from torch import nn
from toy import costs_of_sizes

from tgems.costs.exit_costs import exit_costs
from tgems.exits.modules import ExitHeads, ImageGates
from tgems.features.encode import encode_images
from tgems.policies.trained_gates import TGem
from tgems.profiling.count_backbone import trace_modules
from tgems.profiling.fvcore_trace import count_encoder
from tgems.runtime.engine import encode_early
from tgems.runtime.live_view import ExitDecider


@pytest.fixture(params=ALL)
def tower(request):
    return small_tower(request.param)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("grid", [0, 1, 2])
def test_images_leave_where_and_as_the_harness_says(tower, grid, batch):
    blocks = tuple(range(1, tower.depth + 1))
    widths, n = list(tower.widths[:-1]), tower.depth - 1
    size = max(widths) * (1 + grid**2)
    uneven = widths if len(set(widths)) > 1 else None
    heads, gates = ExitHeads(n, size, 4, 8, uneven), ImageGates(n, size, 4, widths=uneven)
    nn.init.normal_(heads.down.weight)
    for module in (heads, gates):
        module.eval().requires_grad_(False)
    images = torch.randn(5, 3, *tower.image_size)
    encoded = encode_images(tower, images, blocks, [grid])
    scores = gates(encoded.summaries)
    threshold = scores[:, 0].median().item()
    every_exit = tuple(range(n))
    decider = ExitDecider(
        TGem(), costs_of_sizes(widths, size, 8), heads, gates, dict.fromkeys(every_exit, threshold), every_exit
    )
    leaves = torch.cat((scores > threshold, torch.ones(5, 1, dtype=torch.bool)), 1)
    expected, places = leaves.int().argmax(1), torch.arange(5)
    every = torch.cat((heads(encoded.summaries), encoded.embeddings[:, None]), 1)
    parts = [encode_early(tower, decider, part) for part in images.split(batch)]
    clear = (scores - threshold).abs().amin(1) > 1e-5
    exits = torch.cat([part.exits for part in parts])
    assert clear.sum() >= 4 and len(set(expected.tolist())) > 1
    assert torch.equal(exits[clear], expected[clear])
    embeddings = torch.cat([part.embeddings for part in parts])
    assert torch.allclose(embeddings[clear], every[places, exits][clear], atol=1e-5)


@pytest.mark.parametrize("scheme", ["staged", "joint"])
@pytest.mark.parametrize("grid", [0, 1, 2])
def test_heads_and_gates_cost_what_is_traced(tower, grid, scheme):
    modules = variant(6, 3, summary={"grid": grid}, training={"scheme": scheme})
    costs = exit_costs(count_encoder(tower), modules, tower.accepts_raw)
    assert trace_modules(costs, modules) == costs
    assert costs.grid == grid and costs.summary_dim == max(costs.widths) * (1 + grid**2)
