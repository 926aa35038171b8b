"""How many of an image's nearest neighbours in a collection stay if images leave the encoder early. Pure functions."""

import torch
from torch import Tensor

BLOCK_ELEMENTS = 4_000_000


def nearest(queries: Tensor, gallery: Tensor, k: int) -> Tensor:
    """Return the k images of a gallery that are most alike by cosine: `[n, D]`, `[m, D]` -> `[n, k]` int64."""
    rows = max(1, BLOCK_ELEMENTS // len(gallery))
    return torch.cat([(part @ gallery.T).topk(k, dim=1).indices for part in queries.split(rows)])


def lost_share(before: Tensor, after: Tensor) -> Tensor:
    """Return the share of neighbours that are lost, whatever their order: `[n, k]`, `[n, k]` -> `[n]` float64."""
    kept = (before[:, :, None] == after[:, None, :]).any(-1)
    return 1 - kept.double().mean(1)
