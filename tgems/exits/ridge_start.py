"""Start exit heads from a ridge regression in closed form, instead of from random weights. Pure: tensors in and out."""

import torch
from torch import Tensor

from tgems.exits.modules import ExitHeads
from tgems.exits.training_pairs import Pairs

SIZE = 0.25
"""Root mean square of the weights at the start, about 16 times the learning rate of heads. Embeddings are
normalised, so that it changes none of them, but it says how far a step of Adam, as long as that rate, turns heads."""


@torch.no_grad()
def start_from_ridge(heads: ExitHeads, pairs: Pairs, whiten: bool, among: Tensor | None = None) -> None:
    """Set the linear part of all heads to the ridge regression of the last exit's embeddings on the summaries.

    With W the whitening matrix of an exit (`Pairs.whitening`), W W' is the inverse of the covariance of its summaries
    plus the ridge, so that the regression on whitened summaries v is simply E[v (z - E z)'] (Hoerl & Kennard,
    Technometrics 1970). The mean E z becomes the bias, which heads without a hidden layer do not have.

    Args:
        heads: Heads to change.
        pairs: Training pairs.
        whiten: Whether the heads take whitened summaries.
        among: Images whose embeddings may be used `[m]`; None for all.
    """
    images = torch.arange(len(pairs)) if among is None else among
    mean = pairs.last[images].mean(0)
    weight = torch.zeros_like(heads.linear.weight)
    for rows in images.split(4096):
        v = pairs.whitened[rows].transpose(0, 1)
        weight += v.transpose(1, 2) @ (pairs.last[rows] - mean) / len(images)
    if not whiten:
        weight = pairs.whitening @ weight
    size = weight.square().mean((1, 2), keepdim=True).sqrt()
    scale = SIZE / torch.where(size > 0, size, SIZE)
    heads.linear.weight.copy_(weight * scale)
    if heads.architecture["hidden"]:
        heads.down.bias.copy_(mean * scale[:, 0])
