import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tgems.evaluation.metrics import (
    hits_per_image,
    image_to_text_ranks,
    mean_per_class_recall,
    rank_of_label,
    text_to_image_ranks,
)


def embeddings(seed: int, n: int, captions_each: list[int], dim: int = 16):
    """Images near their captions; no ties."""
    generator = torch.Generator().manual_seed(seed)
    images = F.normalize(torch.randn(n, dim, generator=generator), dim=-1)
    owner = torch.repeat_interleave(torch.arange(n), torch.tensor(captions_each))
    texts = F.normalize(images[owner] + 0.6 * torch.randn(len(owner), dim, generator=generator), dim=-1)
    return images, texts, owner


class Lookup(torch.nn.Module):
    """Stands for a CLIP model in clip_benchmark: images and texts are already embeddings."""

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

    generator = torch.Generator().manual_seed(seed)
    weights = F.normalize(torch.randn(classes, 8, generator=generator), dim=-1)
    labels = torch.randint(classes, (n,), generator=generator)
    images = F.normalize(weights[labels] + torch.randn(n, 8, generator=generator), dim=-1)
    scores = images @ weights.T
    theirs = zeroshot_classification.accuracy(scores, labels, topk=(1, 5))
    ranks = rank_of_label(scores, labels)
    assert [(ranks < k).double().mean().item() for k in (1, 5)] == pytest.approx(theirs, abs=1e-6)
    expected = balanced_accuracy_score(labels, scores.argmax(1))
    assert mean_per_class_recall(ranks < 1, labels) == pytest.approx(expected, abs=1e-6)


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
