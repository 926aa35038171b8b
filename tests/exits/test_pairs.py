"""Normalised and whitened summaries of training pairs, and what training on them amounts to."""

import pytest
import torch
from conftest import options
from torch.nn import functional as F
from toy import toy_pairs

from tgems.exits.head_training import train_heads
from tgems.exits.modules import ExitHeads
from tgems.exits.training_loop import denormals_flushed, products_in
from tgems.exits.training_pairs import RIDGE

RATES = torch.tensor([0.25, 0.5, 0.75, 1.0])


def test_normalised_summaries_are_centred_layer_norms():
    pairs = toy_pairs()
    u = F.layer_norm(pairs.summaries, (10,))
    assert torch.allclose(pairs.normalised, u - u.mean(0), atol=1e-5)


def test_whitening_shrinks_large_eigenvalues_as_it_says():
    pairs = toy_pairs()
    for exit_ in range(3):
        before = torch.linalg.eigvalsh(torch.cov(pairs.normalised[:, exit_].T, correction=0))
        after = torch.linalg.eigvalsh(torch.cov(pairs.whitened[:, exit_].T, correction=0))
        assert torch.allclose(after, before / (before + RIDGE * before.mean()), atol=1e-4)


def test_folded_heads_say_of_plain_summaries_what_they_said_of_whitened_ones():
    pairs = toy_pairs()
    heads = ExitHeads(3, 10, 7, 8)
    torch.nn.init.normal_(heads.down.weight)
    pairs.prepare(heads.norm)
    before = heads.embed_normalised(pairs.whitened)
    heads.fold(pairs.whitening)
    assert torch.allclose(heads(pairs.summaries), before, atol=1e-4)


@pytest.mark.parametrize("constant", [0, slice(None)])
def test_summaries_without_variance_can_be_whitened(constant):
    pairs = toy_pairs(64)
    pairs.summaries[:, constant] = pairs.summaries[:1, constant].clone()
    heads, _ = train_heads(pairs, RATES, options("heads", passes=1, hidden=4, batch_size=16), 0)
    assert heads(pairs.summaries).isfinite().all()


def test_settings_of_the_caller_come_back():
    before = torch.backends.mkldnn.matmul.fp32_precision
    with pytest.raises(ZeroDivisionError), products_in("bfloat16"), denormals_flushed():
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        assert (torch.tensor(1e-30) * torch.tensor(1e-10)).item() in (0, pytest.approx(1e-40))
        raise ZeroDivisionError
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    assert (torch.tensor(1e-30) * torch.tensor(1e-10)).item() != 0
