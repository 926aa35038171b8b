"""Query-bank normalisation against its definition, and in an index with one more coordinate."""

import math

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from tgems.errors import UserError
from tgems.evaluation.metrics import text_to_image_ranks
from tgems.evaluation.query_bank import QueryBank, candidates, choose_query_bank, draw_captions, with_penalties


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def test_the_product_with_one_more_coordinate_is_the_normalised_similarity():
    torch.manual_seed(0)
    images, texts, bank = unit(5, 4), unit(6, 4), QueryBank(unit(9, 4), 0.5, 10.0)
    stored, asked = with_penalties(images, bank.penalties(images), texts)
    for i in range(5):
        total = math.log(sum(math.exp(10 * (images[i] @ b).item()) for b in bank.texts))
        for t in range(6):
            expected = (images[i] @ texts[t]).item() - 0.5 / 10 * total
            assert (stored[i] @ asked[t]).item() == pytest.approx(expected, abs=1e-5)
    assert bank.macs == 9 * 4


def test_penalties_of_all_exits_are_those_of_each():
    torch.manual_seed(0)
    bank, z = QueryBank(unit(9, 4), 0.5, 10.0), unit(5, 3, 4)
    assert torch.allclose(bank.penalties(z)[:, 1], bank.penalties(z[:, 1]), atol=1e-6)


def hub():
    """Three images near their own text only, and one image that is nearer to all texts than these."""
    texts = F.normalize(torch.cat((torch.eye(4), torch.zeros(4, 4)), 1) + torch.tensor([0.6] * 4 + [0.0] * 4), dim=-1)
    images = F.normalize(torch.cat((torch.eye(4), 2 * torch.eye(4)), 1), dim=-1)
    images[3] = F.normalize(torch.tensor([1.0] * 4 + [0.0] * 4), dim=-1)
    return images, texts, torch.arange(4)


def test_an_image_that_is_near_all_texts_is_ranked_lower():
    images, texts, owner = hub()
    bank = QueryBank(texts, 1.0, 20.0)
    before = text_to_image_ranks(images, texts, owner)
    after = text_to_image_ranks(*with_penalties(images, bank.penalties(images), texts), owner)
    assert before[:3].tolist() == [1, 1, 1] and after[:3].tolist() == [0, 0, 0]


CAPTIONS = pd.DataFrame({"text": [0, 1, 1, 2, 3], "caption": ["a", "b", "b", "c", "d"]})


def test_the_bank_holds_no_caption_of_the_evaluated_split():
    texts = torch.arange(4.0)[:, None].expand(4, 2)
    drawn = draw_captions(texts, CAPTIONS, {"b", "x"})
    assert sorted(drawn[:, 0].tolist()) == [0, 2, 3]
    assert torch.equal(drawn, draw_captions(texts, CAPTIONS, {"b"}))
    with pytest.raises(UserError, match="every training caption is also a caption of the evaluated split"):
        draw_captions(texts, CAPTIONS, {"a", "b", "c", "d"})


def test_banks_are_no_larger_than_the_number_of_captions():
    found = list(candidates(unit(10, 4), [4, 16, 64], [0.5, 1.0], 10.0))
    assert [(len(b.texts), b.beta) for b in found] == [(4, 0.5), (4, 1.0), (10, 0.5), (10, 1.0)]


def test_the_choice_weighs_recall_against_the_cost():
    images, texts, owner = hub()
    z = torch.stack((unit(4, 8), images), 1)
    rates = torch.tensor([0.5, 1.0]).double()
    weak, strong = (QueryBank(texts, beta, 20.0) for beta in (0.01, 1.0))
    choice = choose_query_bank(z, texts, owner, rates, 10_000, [weak, strong], [1.0])
    assert choice is strong
    expensive = QueryBank(texts.repeat(100, 1), 1.0, 20.0)
    choice = choose_query_bank(
        z, texts, owner, rates, expensive.macs * 2, [expensive, QueryBank(texts, 1.0, 20.0)], [1.0]
    )
    assert choice is not expensive
