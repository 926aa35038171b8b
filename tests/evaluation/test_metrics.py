import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tgems.evaluation.estimates import Point, measure
from tgems.evaluation.metrics import (
    hits_per_image,
    image_to_text_ranks,
    rank_of_label,
    retrieval_ranks,
    text_to_image_ranks,
)
from tgems.evaluation.operating_points import Row
from tgems.runtime.clip_benchmark import adapt_metrics


def embeddings(seed: int, n: int, captions_each: list[int], dim: int = 16):
    """Images near their captions; no ties."""
    generator = torch.Generator().manual_seed(seed)
    images = F.normalize(torch.randn(n, dim, generator=generator), dim=-1)
    owner = torch.repeat_interleave(torch.arange(n), torch.tensor(captions_each))
    texts = F.normalize(images[owner] + 0.6 * torch.randn(len(owner), dim, generator=generator), dim=-1)
    return images, texts, owner


class Lookup(torch.nn.Module):
    """Takes the place of a CLIP model in clip_benchmark; images and texts are already embeddings."""

    def encode_image(self, x):
        return x

    encode_text = encode_image


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.data())
def test_retrieval_equals_clip_benchmark(seed, data):
    from clip_benchmark.metrics import zeroshot_retrieval

    n = data.draw(st.integers(11, 25))
    counts = data.draw(st.lists(st.integers(1, 4), min_size=n, max_size=n))
    images, texts, owner = embeddings(seed, n, counts)
    start = np.cumsum([0, *counts])
    lists = [texts[start[i] : start[i + 1]] for i in range(n)]
    batches = [(images[i : i + 4], lists[i : i + 4]) for i in range(0, n, 4)]
    theirs = zeroshot_retrieval.evaluate(
        Lookup(), batches, lambda rows: torch.stack(list(rows)), "cpu", amp=False, recall_k_list=[1, 5, 10]
    )
    i2t, t2i = image_to_text_ranks(images, texts, owner, block=3), text_to_image_ranks(images, texts, owner, block=4)
    for k in (1, 5, 10):
        assert (i2t < k).double().mean().item() == pytest.approx(theirs[f"text_retrieval_recall@{k}"], abs=1e-6)
        hits = hits_per_image(t2i, owner, n, k).sum().item() / len(owner)
        assert hits == pytest.approx(theirs[f"image_retrieval_recall@{k}"], abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(5, 12), st.integers(5, 80))
def test_classification_equals_clip_benchmark(seed, classes, n):
    from clip_benchmark.metrics import zeroshot_classification
    from sklearn.metrics import balanced_accuracy_score

    adapt_metrics()
    generator = torch.Generator().manual_seed(seed)
    weights = F.normalize(torch.randn(classes, 8, generator=generator), dim=-1)
    labels = torch.randint(classes, (n,), generator=generator)
    images = F.normalize(weights[labels] + torch.randn(n, 8, generator=generator), dim=-1)
    scores = images @ weights.T
    theirs = zeroshot_classification.accuracy(scores, labels, topk=(1, 5))
    ranks = rank_of_label(scores, labels)
    assert [(ranks < k).double().mean().item() for k in (1, 5)] == pytest.approx(theirs, abs=1e-6)
    expected = balanced_accuracy_score(labels, scores.argmax(1))
    point = Point({}, [Row({}, np.ones(n), {"acc1": (ranks < 1).double().numpy()})])
    measured = measure([point], "mean_per_class_recall", SimpleNamespace(labels=labels))
    assert measured.values.item() == pytest.approx(expected, abs=1e-6)


def naive_ranks(images, texts, owner):
    """Both directions from correctly rounded scores, one pair at a time."""
    n, m, owner = len(images), len(texts), owner.tolist()
    rows, columns = images.tolist(), texts.tolist()
    scores = [[math.fsum(a * b for a, b in zip(x, y, strict=True)) for y in columns] for x in rows]
    best = [max(scores[i][t] for t in range(m) if owner[t] == i) for i in range(n)]
    to_texts = [sum(owner[t] != i and scores[i][t] >= best[i] for t in range(m)) for i in range(n)]
    to_images = [sum(i != owner[t] and scores[i][t] >= scores[owner[t]][t] for i in range(n)) for t in range(m)]
    return to_texts, to_images


@st.composite
def captioned(draw, kinds=("no ties", "whole numbers", "duplicates", "one point")):
    """Embeddings of a kind; images have one to four captions each, in any order."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    owner = torch.tensor(draw(st.lists(st.integers(1, 4), min_size=1, max_size=12).flatmap(shuffled_owners)))
    n, dim, kind = int(owner.max()) + 1, draw(st.integers(1, 40)), draw(st.sampled_from(kinds))
    images = torch.randn(n, dim, generator=generator)
    texts = images[owner] + torch.randn(len(owner), dim, generator=generator)
    if kind == "whole numbers":
        images, texts = images.round(), texts.round()
    if kind == "duplicates":
        images = images[torch.randint(n, (n,), generator=generator)]
        texts = texts[torch.randint(len(texts), (len(texts),), generator=generator)]
    if kind == "one point":
        images, texts = images[:1].expand(n, -1), texts[:1].expand(len(texts), -1)
    return images, texts, owner


def shuffled_owners(counts: list[int]):
    return st.permutations([i for i, count in enumerate(counts) for _ in range(count)])


@settings(max_examples=150, deadline=None)
@given(captioned(), st.integers(1, 50))
def test_retrieval_ranks_equal_a_double_loop(drawn, block):
    to_texts, to_images = naive_ranks(*drawn)
    assert image_to_text_ranks(*drawn, block=block).tolist() == to_texts
    assert text_to_image_ranks(*drawn, block=block).tolist() == to_images
    both = retrieval_ranks(*drawn, block=block)
    assert [ranks.tolist() for ranks in both] == [to_texts, to_images]


@pytest.mark.parametrize("spread", [1.0, 1e-4, 0.0])
@pytest.mark.parametrize("block", [3, 7, 50])
def test_block_sizes_give_the_same_ranks(spread, block):
    images, texts, owner = embeddings(1, 60, [1, 3, 2] * 20, dim=96)
    order = torch.randperm(len(owner), generator=torch.Generator().manual_seed(2))
    images = F.normalize(images[:1] + spread * images, dim=-1)
    drawn = images, texts[order], owner[order]
    for ranks, expected in zip(retrieval_ranks(*drawn, block=block), retrieval_ranks(*drawn), strict=True):
        assert torch.equal(ranks, expected)


def test_ranks_of_captions_follow_their_order():
    images, texts, owner = embeddings(3, 40, [1, 2, 3, 4] * 10)
    order = torch.randperm(len(owner), generator=torch.Generator().manual_seed(4))
    to_texts, to_images = retrieval_ranks(images, texts, owner)
    assert torch.equal(image_to_text_ranks(images, texts[order], owner[order]), to_texts)
    assert torch.equal(text_to_image_ranks(images, texts[order], owner[order]), to_images[order])


def test_scores_that_differ_below_float32_are_told_apart():
    images, texts = torch.tensor([[1.0, 0.0], [1.0, 1e-10]]), torch.ones(2, 2)
    assert text_to_image_ranks(images, texts, torch.arange(2)).tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_embeddings_of_other_dtypes_are_ranked_by_their_values(dtype):
    images, texts, owner = embeddings(5, 20, [2] * 20)
    drawn = images.to(dtype), texts.to(dtype), owner
    assert [ranks.tolist() for ranks in retrieval_ranks(*drawn)] == list(naive_ranks(*drawn))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_retrieval_ranks_on_a_gpu():
    drawn = embeddings(6, 300, [1, 2, 3] * 100, dim=64)
    for ranks, expected in zip(retrieval_ranks(*(x.cuda() for x in drawn)), retrieval_ranks(*drawn), strict=True):
        assert ranks.is_cuda and torch.equal(ranks.cpu(), expected)


def test_embeddings_that_are_not_finite_are_an_error():
    images = torch.eye(2)
    with pytest.raises(ValueError, match="must be finite"):
        text_to_image_ranks(images * torch.nan, images, torch.arange(2))


def test_ties_count_against_the_model():
    assert rank_of_label(torch.ones(1, 4), torch.tensor([2])).item() == 3
    same = torch.ones(3, 2)
    assert image_to_text_ranks(same, same, torch.arange(3)).tolist() == [2, 2, 2]
    assert text_to_image_ranks(same, same, torch.arange(3)).tolist() == [2, 2, 2]


def test_one_image_is_a_gallery():
    images, texts, owner = embeddings(0, 1, [2])
    assert image_to_text_ranks(images, texts, owner).tolist() == [0]
    assert text_to_image_ranks(images, texts, owner).tolist() == [0, 0]


def test_an_image_without_captions_is_an_error():
    with pytest.raises(ValueError, match="image 1 has no caption"):
        image_to_text_ranks(torch.eye(3), torch.eye(3)[:2], torch.tensor([0, 2]))
