import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

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


def test_contrastive_is_clip_loss_where_captions_differ():
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 5), torch.arange(5)
    expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    assert losses.contrastive(logits, losses.soft_targets(labels)) == pytest.approx(expected.item(), rel=1e-5)


def test_text_to_image_loss_equals_a_loop_over_galleries():
    torch.manual_seed(0)
    z, texts = F.normalize(torch.randn(5, 3, 4), dim=-1), F.normalize(torch.randn(5, 4), dim=-1)
    drawn = torch.tensor([0, 2, 1, 1, 0])
    mixed = z[torch.arange(5), drawn]
    ids = torch.tensor([0, 1, 2, 3, 1])
    ours = losses.text_to_image_loss(z, mixed, texts, losses.soft_targets(ids), 7.0)
    for i in range(5):
        for e in range(3):
            others = [j for j in range(5) if ids[j] != ids[i]]
            gallery = torch.stack([z[i, e], *(mixed[j] for j in others)])
            expected = F.cross_entropy(7.0 * gallery @ texts[i], torch.tensor(0))
            assert ours[i, e].item() == pytest.approx(expected.item(), abs=1e-4)


def test_head_loss_learns_nothing_from_its_target():
    z = F.normalize(torch.randn(4, 2, 3), dim=-1).requires_grad_()
    last = F.normalize(torch.randn(4, 3), dim=-1)
    texts = F.normalize(torch.randn(4, 3), dim=-1)
    target = losses.soft_targets(torch.arange(4))
    drawn, weights = torch.tensor([0, 1, 2, 0]), torch.full((2,), 0.5)
    plain = losses.head_loss(z, last, texts, target, 5.0, drawn, weights, 1.0, 0.0, 0.0)
    logits = 5.0 * torch.einsum("bed,md->ebm", z, texts)
    expected = torch.stack([losses.contrastive(one, target) for one in logits]).mean()
    assert plain.item() == pytest.approx(expected.item(), rel=1e-5)


def test_lagrangian_price_follows_the_excess():
    regularizer = losses.RateRegularizer("lagrangian", 0.5, kappa=2.0, eta=0.1)
    assert regularizer(torch.tensor(0.7)).item() == pytest.approx(0.04)
    assert regularizer.mu == pytest.approx(0.02)
    regularizer(torch.tensor(0.2))
    assert regularizer.mu == pytest.approx(-0.01), "an equality: the price may be negative"


@pytest.mark.parametrize(("mode", "value"), [("penalty", 2 * 0.04), ("lambda", 3 * 0.7)])
def test_other_regularizers(mode, value):
    regularizer = losses.RateRegularizer(mode, 0.5, kappa=2.0, eta=0.1, weight=3.0)
    assert regularizer(torch.tensor(0.7)).item() == pytest.approx(value)


def test_unknown_regularizer_is_named():
    with pytest.raises(ValueError, match="'lagrange' is unknown"):
        losses.RateRegularizer("lagrange", 0.5, 1, 1)


@pytest.mark.parametrize("target", [0.3, 0.55, 0.9])
def test_exit_weights_meet_their_rate_and_favour_nobody_else(target):
    rates = torch.linspace(0.1, 1.0, 10)
    weights = losses.exit_weights(rates, target)
    assert weights.sum().item() == pytest.approx(1) and (weights @ rates).item() == pytest.approx(target, abs=1e-3)
    steps = weights.log().diff()
    assert torch.allclose(steps, steps[0].expand_as(steps), atol=1e-3), "exponential in the rate: highest entropy"


def test_exit_weights_without_a_rate_are_equal():
    assert losses.exit_weights(torch.tensor([0.2, 1.0]), 0).tolist() == [0.5, 0.5]
