"""Zero-shot and retrieval metrics by the rank of the right answer. Pure torch; ties count against the model.

On tie-free embeddings equal to clip_benchmark's `zeroshot_classification` and `zeroshot_retrieval`, and named as there.
"""

import torch
from torch import Tensor


def rank_of_label(scores: Tensor, labels: Tensor) -> Tensor:
    """Number of other classes that score at least as high as the right one.

    Args:
        scores: `[n, ..., C]`.
        labels: `[n]` int64.

    Returns:
        `[n, ...]` int64, 0 is best.
    """
    index = labels.reshape(-1, *(1,) * (scores.dim() - 1)).expand(*scores.shape[:-1], 1)
    return (scores >= scores.gather(-1, index)).sum(-1) - 1


def image_to_text_ranks(images: Tensor, texts: Tensor, text_image: Tensor, block: int = 256) -> Tensor:
    """Per image, the number of captions of other images that score at least as high as its best own caption.

    Args:
        images: `[n, D]`.
        texts: `[m, D]`.
        text_image: Image of each caption `[m]` int64.
        block: Images at a time; memory is `block * m`.

    Returns:
        `[n]` int64, 0 is best.

    Raises:
        ValueError: An image has no caption.
    """
    missing = set(range(len(images))) - set(text_image.tolist())
    if missing:
        raise ValueError(f"image {min(missing)} has no caption, so its retrieval rank is undefined")
    ranks = []
    for start in range(0, len(images), block):
        scores = images[start : start + block] @ texts.T
        own = text_image[None, :] == torch.arange(start, start + len(scores))[:, None]
        best = scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
        ranks.append(((scores >= best) & ~own).sum(1))
    return torch.cat(ranks)


def text_to_image_ranks(images: Tensor, texts: Tensor, text_image: Tensor, block: int = 512) -> Tensor:
    """Per caption, the number of other images that score at least as high as its own.

    Args:
        images: Gallery `[n, D]`.
        texts: `[m, D]`.
        text_image: Image of each caption `[m]` int64.
        block: Captions at a time; memory is `block * n`.

    Returns:
        `[m]` int64, 0 is best.
    """
    ranks = []
    for start in range(0, len(texts), block):
        scores = texts[start : start + block] @ images.T
        ranks.append(rank_of_label(scores, text_image[start : start + block]))
    return torch.cat(ranks)


def hits_per_image(ranks: Tensor, text_image: Tensor, n_images: int, k: int) -> Tensor:
    """Captions of each image whose rank is below `k`: `[m]` -> `[n]` float64 (the unit is an image)."""
    hits = (ranks < k).double()
    return torch.zeros(n_images, dtype=torch.float64).index_add_(0, text_image, hits)


def mean_per_class_recall(correct: Tensor, labels: Tensor) -> float:
    """Mean over the classes present of the share that is right."""
    return torch.stack([correct[labels == c].double().mean() for c in labels.unique()]).mean().item()
