"""How many of an image's nearest neighbours in a collection stay if images leave the encoder early. Pure functions."""

import torch
from torch import Tensor

BLOCK_ELEMENTS = 4_000_000


def nearest(queries: Tensor, gallery: Tensor, k: int, others: bool = False) -> Tensor:
    """Return the k images of a gallery that are most alike by cosine: `[n, D]`, `[m, D]` -> `[n, k]` int64.

    Args:
        queries: Unit embeddings.
        gallery: Unit embeddings.
        k: Number of neighbours, at most m, or m - 1 with `others`.
        others: Whether queries are the gallery, and none is to find itself.
    """
    found = []
    for rows in torch.arange(len(queries)).split(max(1, BLOCK_ELEMENTS // len(gallery))):
        similarities = queries[rows] @ gallery.T
        if others:
            similarities[torch.arange(len(rows)), rows] = -torch.inf
        found.append(similarities.topk(k, dim=1).indices)
    return torch.cat(found)


def lost_share(before: Tensor, after: Tensor) -> Tensor:
    """Return the share of neighbours that are lost, whatever their order: `[n, k]`, `[n, k]` -> `[n]` float64."""
    kept = (before[:, :, None] == after[:, None, :]).any(-1)
    return 1 - kept.double().mean(1)
