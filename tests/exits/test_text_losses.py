"""The closed-form gradient of the text losses against a definition in plain torch, and that against loops."""

import math

import pytest
import torch
from torch.nn import functional as F

from tgems.exits.losses import soft_targets
from tgems.exits.text_losses import text_losses


def mixed_gallery(scores, same, log_shares):
    """Text-to-image loss of each text by the exit of its own image, all other images being at all exits at once."""
    others = (scores + log_shares[:, :, None]).masked_fill(same, -torch.inf).logsumexp((0, 1))
    own = scores.diagonal(dim1=1, dim2=2)
    return torch.logaddexp(others.expand_as(own), own) - own


def divergence(scores, teacher, dim):
    """Kullback-Leibler divergence of every exit's softmax from the teacher's, `[E, B]`."""
    student, target = scores.log_softmax(dim), teacher.log_softmax(dim - 1)
    return (target.exp() * (target - student)).sum(dim)


def definition(scores, teacher, target, log_shares, text, similarity, mixed):
    """Compute the losses of `text_losses` in plain torch, so that autograd can give their gradients."""
    images = scores.logsumexp(2) - (target * scores).sum(2)
    texts = scores.logsumexp(1) - (target.T * scores).sum(1)
    if mixed:
        texts = mixed_gallery(scores, target > 0, log_shares)
    halves = [similarity / 2 * divergence(scores, teacher, dim) for dim in (2, 1)]
    return text * images + halves[0], text * texts + halves[1]


def example(exits=4, size=7):
    torch.manual_seed(0)
    scores = (5 * torch.randn(exits, size, size)).double().requires_grad_()
    teacher = 5 * torch.randn(size, size).double()
    log_shares = torch.randn(size, exits).double().log_softmax(1).T.contiguous().requires_grad_()
    return scores, teacher, soft_targets(torch.tensor([0, 1, 2, 3, 1, 4, 5][:size])).double(), log_shares


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("text", [1.0, 0.0])
@pytest.mark.parametrize("similarity", [0.5, 0.0])
def test_losses_and_gradients_are_those_of_the_definition(mixed, text, similarity):
    scores, teacher, target, log_shares = example()
    weights, found = torch.rand(2, 4, 7).double(), []
    for function in (text_losses, definition):
        images, texts = function(scores, teacher, target, log_shares, text, similarity, mixed)
        total = (images * weights[0] + texts * weights[1]).sum()
        of_scores, of_shares = torch.autograd.grad(total, (scores, log_shares), allow_unused=True)
        none = torch.zeros_like(log_shares)
        found.append((images, texts, of_scores, none if of_shares is None else of_shares))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10)
    assert found[0][3].any() == (mixed and text > 0)


def test_a_mixed_gallery_equals_a_loop_over_texts():
    scores, _, target, log_shares = (x.detach() for x in example())
    ours = text_losses(scores, scores[-1], target, log_shares, 1.0, 0.0, True).per_text
    shares = log_shares.exp()
    for e in range(4):
        for text in range(7):
            others = sum(
                (shares[k, image] * scores[k, image, text].exp()).item()
                for k in range(4)
                for image in range(7)
                if not target[image, text]
            )
            own = scores[e, text, text].exp().item()
            assert ours[e, text].item() == pytest.approx(math.log((own + others) / own), abs=1e-9)


def test_distillation_is_nothing_for_the_teacher_and_a_divergence_for_others():
    torch.manual_seed(0)
    teacher, other = torch.randn(4, 4), torch.randn(4, 4)
    shares = torch.zeros(2, 4)
    ours = text_losses(torch.stack((teacher, other)), teacher, torch.eye(4), shares, 0.0, 2.0, True)
    assert ours.per_image[0].tolist() == pytest.approx([0] * 4, abs=1e-6)
    rows = F.kl_div(other.log_softmax(1), teacher.softmax(1), reduction="batchmean")
    columns = F.kl_div(other.T.log_softmax(1), teacher.T.softmax(1), reduction="batchmean")
    assert ours.per_image[1].mean().item() == pytest.approx(rows.item(), rel=1e-4)
    assert ours.per_text[1].mean().item() == pytest.approx(columns.item(), rel=1e-4)


def test_extreme_scores_stay_finite():
    scores = torch.tensor([[[100.0, -100.0], [-100.0, 100.0]], [[-100.0, 100.0], [100.0, -100.0]]]).requires_grad_()
    losses = text_losses(scores, scores[0].detach(), torch.eye(2), torch.zeros(2, 2), 1.0, 0.5, True)
    total = losses.per_image.sum() + losses.per_text.sum()
    total.backward()
    assert total.isfinite() and scores.grad.isfinite().all()
