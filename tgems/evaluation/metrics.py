"""Zero-shot and retrieval metrics by the rank of the right answer. Pure torch; ties count against the model.

On embeddings without ties they equal those of clip_benchmark's `zeroshot_classification` and `zeroshot_retrieval`, and
they have the same names.

A retrieval score is the float64 dot product of two embeddings, and scores that differ by less than its rounding are a
tie. A float32 matrix product settles nearly every comparison, because its error is bounded; the few scores that lie
within that bound of the score they are compared with are computed again in float64. Therefore ranks depend neither on
the block size nor on how the device orders a float32 sum, and equal embeddings always tie. The bound does not hold for
TF32, which torch does not use by default.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 1024


def rank_of_label(scores: Tensor, labels: Tensor) -> Tensor:
    """Count the other classes that score at least as high as the right one.

    Args:
        scores: `[n, ..., C]`.
        labels: `[n]` int64.

    Returns:
        `[n, ...]` int64, 0 is best.
    """
    index = labels.reshape(-1, *(1,) * (scores.dim() - 1)).expand(*scores.shape[:-1], 1)
    return (scores >= scores.gather(-1, index)).sum(-1) - 1


def image_to_text_ranks(images: Tensor, texts: Tensor, text_image: Tensor, block: int = BLOCK) -> Tensor:
    """Count, per image, the captions of other images that score at least as high as its best own caption.

    Args:
        images: `[n, D]`.
        texts: `[m, D]`.
        text_image: Image of each caption `[m]` int64, in any order.
        block: Number of images and captions at a time; memory is a few times `block ** 2`.

    Returns:
        `[n]` int64, 0 is best.

    Raises:
        ValueError: An image has no caption, or an embedding is not finite.
    """
    pairs = _Pairs.of(images, texts, text_image)
    counter = _RankCounter(pairs, pairs.best())
    _sweep(pairs, block, per_image=counter)
    return counter.ranks


def text_to_image_ranks(images: Tensor, texts: Tensor, text_image: Tensor, block: int = BLOCK) -> Tensor:
    """Count, per caption, the other images that score at least as high as its own.

    Args:
        images: Gallery `[n, D]`.
        texts: `[m, D]`.
        text_image: Image of each caption `[m]` int64, in any order.
        block: Number of images and captions at a time; memory is a few times `block ** 2`.

    Returns:
        `[m]` int64, 0 is best.

    Raises:
        ValueError: An embedding is not finite.
    """
    pairs = _Pairs.of(images, texts, text_image)
    counter = _RankCounter(pairs, pairs.own)
    _sweep(pairs, block, per_text=counter)
    return counter.ranks


def retrieval_ranks(images: Tensor, texts: Tensor, text_image: Tensor, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Compute `image_to_text_ranks` and `text_to_image_ranks` in one pass over the scores."""
    pairs = _Pairs.of(images, texts, text_image)
    per_image, per_text = _RankCounter(pairs, pairs.best()), _RankCounter(pairs, pairs.own)
    _sweep(pairs, block, per_image, per_text)
    return per_image.ranks, per_text.ranks


@dataclass(frozen=True)
class _Pairs:
    """Embeddings and the scores of captions with their own images.

    Attributes:
        images: `[n, D]`, at least float32.
        texts: `[m, D]`, of the same dtype.
        text_image: `[m]` int64.
        own: Score of each caption with its image `[m]` float64.
        largest: Upper bound on the absolute value of every score.
    """

    images: Tensor
    texts: Tensor
    text_image: Tensor
    own: Tensor
    largest: float

    @classmethod
    def of(cls, images: Tensor, texts: Tensor, text_image: Tensor, chunk: int = 4096) -> "_Pairs":
        dtype = torch.promote_types(images.dtype, torch.float32)
        images, texts = images.detach().to(dtype), texts.detach().to(dtype)
        largest = (images.norm(dim=-1).amax() * texts.norm(dim=-1).amax()).item()
        if not math.isfinite(largest):
            raise ValueError("embeddings must be finite to be ranked")
        chunks = zip(texts.split(chunk), text_image.split(chunk), strict=True)
        own = torch.cat([(images[i].double() * t).sum(-1) for t, i in chunks])
        return cls(images, texts, text_image, own, largest)

    def best(self) -> Tensor:
        """Return the highest score of each image with a caption of its own: `[n]` float64."""
        missing = (torch.bincount(self.text_image, minlength=len(self.images)) == 0).nonzero()
        if len(missing):
            raise ValueError(f"image {missing[0].item()} has no caption, so its retrieval rank is undefined")
        lowest = self.own.new_full((len(self.images),), -torch.inf)
        return lowest.scatter_reduce(0, self.text_image, self.own, "amax")


class _RankCounter:
    """Counts, block by block, how many scores are at least as high as the best positive of each query.

    Args:
        pairs: Embeddings.
        positive: Score of the best positive of each query `[q]` float64.
    """

    def __init__(self, pairs: _Pairs, positive: Tensor):
        dim, dtype = pairs.images.shape[1], pairs.images.dtype
        self.bar = positive - dim * torch.finfo(torch.float64).eps * pairs.largest
        # A sum of `dim` products in any order is off by at most about dim * eps / 2; the rest is for rounding the bars.
        slack = (dim + 4) * torch.finfo(dtype).eps / 2 * pairs.largest
        self.low, self.high = (self.bar - slack).to(dtype), (positive + slack).to(dtype)
        self.ranks = torch.zeros_like(positive, dtype=torch.int64)

    def add(self, scores: Tensor, scratch: Tensor, queries: Tensor, gallery: Tensor, start: int) -> None:
        """Count one block.

        Args:
            scores: `[q, g]`, minus infinity where the gallery holds a positive.
            scratch: Buffer `[q, g]` that is overwritten.
            queries: `[q, D]`.
            gallery: `[g, D]`.
            start: Index of the first query.
        """
        rows = slice(start, start + len(queries))
        low, high = self.low[rows, None], self.high[rows, None]
        # Comparisons give ones and zeros in the dtype of the scores: torch is several times slower with booleans.
        above = torch.gt(scores, high, out=scratch).sum(1)
        unsure = (torch.ge(scores, low, out=scratch).sum(1) > above).nonzero()[:, 0]
        self.ranks[rows] += above.long()
        if len(unsure):
            near = (scores[unsure] >= low[unsure]) & (scores[unsure] <= high[unsure])
            columns = near.any(0).nonzero()[:, 0]
            exact = queries[unsure].double() @ gallery[columns].double().T
            near = near[:, columns] & (exact >= self.bar[rows][unsure, None])
            self.ranks[start + unsure] += near.sum(1)


def _sweep(
    pairs: _Pairs, block: int, per_image: _RankCounter | None = None, per_text: _RankCounter | None = None
) -> None:
    """Pass every score to the counters once, except the scores of captions with their own images."""
    buffers = pairs.images.new_empty(2, min(block, len(pairs.images)) * min(block, len(pairs.texts)))
    for i in range(0, len(pairs.images), block):
        images = pairs.images[i : i + block]
        for t in range(0, len(pairs.texts), block):
            texts = pairs.texts[t : t + block]
            scores, scratch = (b[: len(images) * len(texts)].view(len(images), -1) for b in buffers)
            torch.mm(images, texts.T, out=scores)
            owner = pairs.text_image[t : t + block] - i
            inside = ((owner >= 0) & (owner < len(images))).nonzero()[:, 0]
            scores[owner[inside], inside] = -torch.inf
            if per_image is not None:
                per_image.add(scores, scratch, images, texts, i)
            if per_text is not None:
                per_text.add(scores.T, scratch.T, texts, images, t)


def hits_per_image(ranks: Tensor, text_image: Tensor, n_images: int, k: int) -> Tensor:
    """Count the captions of each image whose rank is below `k`: `[m]` -> `[n]` float64."""
    hits = (ranks < k).double()
    return torch.zeros(n_images, dtype=torch.float64, device=ranks.device).index_add_(0, text_image, hits)
