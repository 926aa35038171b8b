import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tgems.costs.closed_form import BANK_FEATURES, bank_gate_inputs
from tgems.exits.bank_modules import BankGates
from tgems.exits.bank_statistics import bank_features
from tgems.exits.modules import ExitHeads, ImageGates, LookaheadGates


def test_heads_equal_one_small_network_per_exit():
    torch.manual_seed(0)
    heads = ExitHeads(3, 6, 5, 4)
    nn.init.normal_(heads.down.weight)
    nn.init.normal_(heads.norm.weight)
    summaries = torch.randn(7, 3, 6)
    for e in range(3):
        u = F.layer_norm(summaries[:, e], (6,), heads.norm.weight[e], heads.norm.bias[e])
        hidden = F.gelu(u @ heads.up.weight[e] + heads.up.bias[e])
        z = u @ heads.linear.weight[e] + hidden @ heads.down.weight[e] + heads.down.bias[e]
        assert torch.allclose(heads(summaries)[:, e], F.normalize(z, dim=-1), atol=1e-6)


def test_one_image_gives_the_same_as_a_batch():
    torch.manual_seed(0)
    heads, gates = ExitHeads(3, 6, 5, 4), ImageGates(3, 6, 5)
    summaries = torch.randn(7, 3, 6)
    for module in (heads, gates):
        assert torch.allclose(module(summaries)[2:3], module(summaries[2:3]), atol=1e-6)


def test_gate_logits_follow_the_steepest_slope_ahead():
    torch.manual_seed(0)
    rates = [0.25, 0.5, 0.8, 1.05]
    gates = LookaheadGates(3, 6, 5, rates, temperature=0.1)
    gates.price.fill_(0.3)
    summaries = torch.randn(4, 3, 6)
    p = gates.predict_correctness(summaries).sigmoid()
    for i in range(4):
        for e in range(3):
            slope = max((p[i, e, k] - p[i, e, e]).item() / (rates[k] - rates[e]) for k in range(e + 1, 4))
            assert gates(summaries)[i, e].item() == pytest.approx((0.3 - slope) / 0.1, abs=1e-3)


def _naive_features(logits, scale):
    """One image, one exit, by the definition."""
    p = [math.exp(x) for x in logits]
    p = sorted((x / sum(p) for x in p), reverse=True)
    entropy = -sum(x * math.log(x) for x in p if x > 0)
    top = sorted(logits, reverse=True) + [-math.inf] * 3
    m = len(p)
    return [
        *(p[0], p[0] - p[1], (math.log(max(1 - p[0], 1e-6)) + 3) / 4, math.log(p[0]) / 3),
        *(min(top[0] - top[k], 50) / 10 for k in (1, 2, 3)),
        *(entropy / math.log(m), entropy / 3, top[0] / scale * 2 - 1.5, math.log(m) / 5 - 0.6),
    ]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 9), st.integers(1, 4))
def test_bank_features_equal_their_definition(seed, bank, exits):
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(3, exits, bank, generator=generator).double()
    features = bank_features(logits, 7.0)
    assert features.shape[-1] == BANK_FEATURES
    for i in range(3):
        for e in range(exits):
            assert features[i, e].tolist() == pytest.approx(_naive_features(logits[i, e].tolist(), 7.0), abs=1e-5)


def test_texts_outside_the_bank_do_not_count():
    logits = torch.randn(2, 3, 6)
    masked = torch.cat((logits, torch.full((2, 3, 4), -torch.inf)), -1)
    assert torch.allclose(bank_features(masked, 1.0), bank_features(logits, 1.0), atol=1e-6)


def test_bank_features_of_an_exit_know_no_other_exit():
    logits = torch.randn(2, 3, 6)
    assert torch.allclose(bank_features(logits, 1.0)[:, 1:2], bank_features(logits[:, 1:2], 1.0))


def test_bank_gates_weigh_leaving_against_going_on():
    torch.manual_seed(0)
    gates = BankGates(3, 6, 5)
    nn.init.normal_(gates.shift)
    summaries, features, price = torch.randn(4, 3, 6), torch.randn(4, 3, BANK_FEATURES), torch.rand(4) + 0.1
    hidden = gates.embed(summaries, features)
    right, stay = gates.right(hidden), gates.worth(hidden, price)
    assert torch.allclose(gates(summaries, features, price), right.sigmoid() - stay)
    for i in range(4):
        x = price[i].log() / 2
        shifted = hidden[i, 1] + x * gates.shift[1, 0] + x * x / 2 * gates.shift[1, 1]
        expected = F.gelu(shifted) @ gates.stay.weight[1] + gates.stay.bias[1]
        assert stay[i, 1].item() == pytest.approx(expected.item(), abs=1e-5)
    assert bank_gate_inputs(6) == 6 + BANK_FEATURES
