import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tgems.exits.modules import BankGates, ExitHeads, ImageGates, bank_features, bank_history
from tgems.exits.sizes import BANK_FEATURES, BANK_HISTORY, bank_gate_inputs


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


def test_untrained_gates_are_undecided():
    assert (ImageGates(3, 6, 5)(torch.randn(4, 3, 6)) == 0).all()


def _naive_features(logits, previous_winner):
    """One image, one exit, by the definition."""
    p = [math.exp(x) for x in logits]
    p = sorted((x / sum(p) for x in p), reverse=True)
    entropy = -sum(x * math.log(x) for x in p if x > 0) / math.log(len(p))
    top = sorted(logits, reverse=True)
    agrees = float(logits.index(top[0]) == previous_winner)
    return [p[0], p[0] - p[1], min(top[0] - top[1], 50) / 10, entropy, agrees]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 9), st.integers(1, 4))
def test_bank_features_equal_their_definition(seed, bank, exits):
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(3, exits, bank, generator=generator)
    features = bank_features(logits)
    for i in range(3):
        for e in range(exits):
            previous = logits[i, e - 1].argmax().item() if e else None
            expected = _naive_features(logits[i, e].tolist(), previous)
            assert features[i, e].tolist() == pytest.approx(expected, abs=1e-5)


def test_texts_outside_the_bank_do_not_count():
    logits = torch.randn(2, 3, 6)
    masked = torch.cat((logits, torch.full((2, 3, 4), -torch.inf)), -1)
    assert torch.allclose(bank_features(masked), bank_features(logits), atol=1e-6)


def test_history_looks_back_only():
    features = torch.arange(1.0, 1 + 4 * BANK_FEATURES).reshape(1, 4, BANK_FEATURES)
    history = bank_history(features, torch.tensor(10))
    assert history.shape == (1, 4, BANK_FEATURES * BANK_HISTORY + 1)
    zeros = torch.zeros(BANK_FEATURES)
    assert torch.equal(history[0, 0, :-1], torch.cat((features[0, 0], zeros, zeros)))
    assert torch.equal(history[0, 3, :-1], torch.cat((features[0, 3], features[0, 2], features[0, 1])))
    assert BankGates(4, 6, 5)(torch.randn(1, 4, 6), history).shape == (1, 4, 2)
    assert bank_gate_inputs(6) == 6 + history.shape[-1]
