import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tgems.config.training import HeadOptions
from tgems.exits import losses


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=1, max_size=8))
def test_exit_probabilities_are_stick_breaking(gates):
    pi = losses.exit_log_probabilities(torch.tensor([gates])).exp()[0].tolist()
    stay, expected = 1.0, []
    for a in gates:
        g = torch.sigmoid(torch.tensor(a, dtype=torch.float64)).item()
        expected.append(stay * g)
        stay *= 1 - g
    assert pi == pytest.approx([*expected, stay], abs=1e-5)
    assert sum(pi) == pytest.approx(1, abs=1e-5)


OPTIONS = HeadOptions(text=1.0, mixed_gallery=False, similarity=0.0, distill=0.0)


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def test_head_loss_is_clip_loss_of_every_exit_where_captions_differ():
    torch.manual_seed(0)
    z, last, texts = unit(5, 2, 4), unit(5, 4), unit(5, 4)
    ours = losses.head_loss(z, last, texts, torch.arange(5), 7.0, torch.full((3,), 1 / 3), OPTIONS)
    expected = 0.0
    for e in range(2):
        logits = 7.0 * z[:, e] @ texts.T
        expected += (F.cross_entropy(logits, torch.arange(5)) + F.cross_entropy(logits.T, torch.arange(5))) / 2
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)


def test_distillation_alone_needs_no_texts():
    torch.manual_seed(0)
    z, last, texts = unit(4, 2, 3), unit(4, 3), unit(4, 3)
    options = OPTIONS.model_copy(update={"text": 0.0, "distill": 2.0})
    ours = losses.head_loss(z, last, texts, torch.arange(4), 5.0, torch.full((3,), 1 / 3), options)
    cosine = torch.einsum("bed,bd->be", z, last)
    assert ours.item() == pytest.approx(2 * (1 - cosine.mean()).item(), rel=1e-5)


def test_lagrangian_price_follows_the_excess():
    regularizer = losses.RateRegularizer("lagrangian", 0.5, kappa=2.0, eta=0.1)
    assert regularizer(torch.tensor(0.7)).item() == pytest.approx(0.04)
    assert regularizer.mu == pytest.approx(0.02)
    regularizer(torch.tensor(0.2))
    assert regularizer.mu == pytest.approx(-0.01), "an equality: the price may be negative"


@pytest.mark.parametrize(("mode", "value"), [("penalty", 2 * 0.04), ("lambda", 3 * 0.7)])
def test_penalty_and_lambda_equal_their_formulas(mode, value):
    regularizer = losses.RateRegularizer(mode, 0.5, kappa=2.0, eta=0.1, weight=3.0)
    assert regularizer(torch.tensor(0.7)).item() == pytest.approx(value)


def test_unknown_regularizer_is_named():
    with pytest.raises(ValueError, match="'lagrange' is unknown"):
        losses.RateRegularizer("lagrange", 0.5, 1, 1)


@pytest.mark.parametrize("target", [0.3, 0.55, 0.9])
def test_exit_weights_meet_their_rate_with_the_highest_entropy(target):
    rates = torch.linspace(0.1, 1.0, 10)
    weights = losses.exit_weights(rates, target)
    assert weights.sum().item() == pytest.approx(1) and (weights @ rates).item() == pytest.approx(target, abs=1e-3)
    steps = weights.log().diff()
    assert torch.allclose(steps, steps[0].expand_as(steps), atol=1e-3), "exponential in the rate: highest entropy"


def test_exit_weights_without_a_rate_are_equal():
    assert losses.exit_weights(torch.tensor([0.2, 1.0]), 0).tolist() == [0.5, 0.5]
