"""Token merging as pure functions: which tokens are merged, and into what.

Source: Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, arXiv 2210.09461, section 3. In every block,
between attention and MLP, the r tokens that are most like another one are merged into it.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Matching(NamedTuple):
    """Which of an image's N tokens are merged, and the new order of the others.

    Attributes:
        kept: Numbers of the tokens that stay, in their new order `[n, N - r]` int64.
        merged: Numbers of the tokens that are merged into others `[n, r]` int64.
        into: Place in `kept` of the token that each of `merged` is merged into `[n, r]` int64.
    """

    kept: Tensor
    merged: Tensor
    into: Tensor


def match_tokens(keys: Tensor, prefix: int, r: int) -> Matching:
    """Match tokens by bipartite soft matching (section 3, "Bipartite Soft Matching").

    Tokens are divided alternately into two sets A and B. Each token of A is matched with the token of B to which its
    key has the largest cosine similarity, and the r most similar pairs are merged. The remaining tokens of A come
    before B, as in the paper's appendix D. Of two equally similar pairs, the one that comes first is merged.

    Args:
        keys: Features `[n, N, d]` by which tokens are compared.
        prefix: Number of class and register tokens, which come first and are never merged.
        r: Number of tokens to merge, at least 1 and at most `(N - prefix) // 2`.
    """
    n, tokens = keys.shape[:2]
    first = prefix + prefix % 2, prefix + 1 - prefix % 2  # A holds the even places, as in the paper's code
    unit = F.normalize(keys.float(), dim=-1)
    a, b = unit[:, first[0] :: 2], unit[:, first[1] :: 2]
    with torch.autocast(keys.device.type, enabled=False):
        likeness, nearest = (a @ b.transpose(1, 2)).max(-1)
    order = likeness.argsort(dim=-1, descending=True, stable=True)
    gone, left = order[:, :r], order[:, r:].sort(-1).values
    before = torch.arange(prefix, device=keys.device).expand(n, -1)
    others = torch.arange(first[1], tokens, 2, device=keys.device).expand(n, -1)
    return Matching(
        kept=torch.cat([before, first[0] + 2 * left, others], 1),
        merged=first[0] + 2 * gone,
        into=prefix + left.shape[1] + nearest.gather(1, gone),
    )


def merge_tokens(tokens: Tensor, sizes: Tensor, matching: Matching) -> Tensor:
    """Replace merged tokens by the mean of their patches, that is, by their mean weighted by size.

    Args:
        tokens: Tokens `[n, N, w]`.
        sizes: Number of patches that each token stands for `[n, N]`.
        matching: Which tokens are merged.

    Returns:
        Tokens `[n, N - r, w]`. Those into which none is merged are unchanged bit for bit.
    """
    kept, merged, into = matching
    old, added = sizes.gather(1, kept), sizes.gather(1, merged)
    new = old.scatter_add(1, into, added)
    stay = select_tokens(tokens, kept).float() * (old / new)[..., None]
    come = select_tokens(tokens, merged).float() * (added / new.gather(1, into))[..., None]
    return stay.scatter_add(1, into[..., None].expand_as(come), come).to(tokens.dtype)


def new_owners(owners: Tensor, matching: Matching) -> Tensor:
    """Return the token that stands for each patch after tokens were merged.

    Args:
        owners: The token before that `[n, P]` int64.
        matching: Which tokens are merged.
    """
    kept, merged, into = matching
    places = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
    renumbered = kept.new_zeros(len(kept), kept.shape[1] + merged.shape[1])
    return renumbered.scatter(1, kept, places).scatter(1, merged, into).gather(1, owners)


def token_sizes(owners: Tensor, tokens: int, prefix: int) -> Tensor:
    """Count the patches that each token stands for.

    Args:
        owners: Number of the token that stands for each patch `[n, P]` int64.
        tokens: Number of tokens N.
        prefix: Number of class and register tokens; they count as one patch each.

    Returns:
        Sizes `[n, N]` float32.
    """
    counts = torch.zeros(len(owners), tokens, device=owners.device)
    counts[:, :prefix] = 1
    return counts.scatter_add(1, owners, torch.ones_like(owners, dtype=counts.dtype))


def proportional_attention(query: Tensor, key: Tensor, value: Tensor, sizes: Tensor | None) -> Tensor:
    """Attend to tokens in proportion to their sizes (section 3, "Tracking Token Size", equation 1).

    Args:
        query: Queries `[n, H, N, d]`.
        key: Keys of the same shape.
        value: Values of the same shape.
        sizes: Number of patches that each token stands for `[n, N]`; its logarithm is added to the scores. None if
            all are 1.

    Returns:
        `[n, H, N, d]`.
    """
    bias = None if sizes is None else sizes.log()[:, None, None, :].to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def select_tokens(tokens: Tensor, numbers: Tensor) -> Tensor:
    """Return tokens `[n, m, w]` by their numbers `[n, m]`; copies whole tokens, which is faster than `gather`."""
    n, count, width = tokens.shape
    rows = numbers + count * torch.arange(n, device=tokens.device)[:, None]
    return tokens.flatten(0, 1).index_select(0, rows.flatten()).view(n, -1, width)
