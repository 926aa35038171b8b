"""Query-bank normalisation of text-to-image scores (docs/method.md#query-bank-normalisation; Bogolin et al., 2022).

The similarity of an image to a text is lowered by beta times the log-sum-exp of its similarities to a fixed bank of
training captions. That is one number per image, computed when the image is indexed, so that any inner-product index can
store it as one more coordinate.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from tgems.costs.closed_form import bank_product_macs
from tgems.errors import UserError
from tgems.evaluation.metrics import text_to_image_ranks
from tgems.exits.losses import exit_weights

ROWS = 1024


@dataclass(frozen=True)
class QueryBank:
    """A bank of captions and the weight of its penalty.

    Attributes:
        texts: Unit embeddings of training captions `[M, D]`, none of them a caption of the images that are scored.
        beta: Weight of the penalty.
        scale: Logit scale of the backbone.
    """

    texts: Tensor
    beta: float
    scale: float

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image."""
        return bank_product_macs(len(self.texts), self.texts.shape[1])

    @property
    def about(self) -> dict:
        """Size and beta, by column of the tables."""
        return {"query_bank_size": len(self.texts), "query_bank_beta": self.beta}

    def penalties(self, embeddings: Tensor) -> Tensor:
        """Compute the penalty of an image's similarities: unit embeddings `[n, ..., D]` -> `[n, ...]`."""
        return self.beta / self.scale * self.log_sums(embeddings)

    def log_sums(self, embeddings: Tensor) -> Tensor:
        """Compute the log-sum-exp of scaled similarities to the bank: unit embeddings `[n, ..., D]` -> `[n, ...]`."""
        return torch.cat([(self.scale * rows @ self.texts.T).logsumexp(-1) for rows in embeddings.split(ROWS)])


def with_penalties(images: Tensor, penalties: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Add a coordinate to images and texts, so that their products are normalised scores.

    Args:
        images: Unit embeddings `[n, D]`.
        penalties: `[n]`.
        texts: Unit embeddings `[m, D]`.

    Returns:
        `[n, D + 1]`, which ends in minus the penalty, and `[m, D + 1]`, which ends in 1.
    """
    return torch.cat((images, -penalties[:, None]), 1), torch.cat((texts, torch.ones_like(texts[:, :1])), 1)


def draw_captions(texts: Tensor, captions: pd.DataFrame, unwanted: set[str], seed: int = 0) -> Tensor:
    """Return the distinct training captions in random order, without those of the images that are scored.

    Args:
        texts: Embeddings of the distinct training captions `[m, D]`.
        captions: Training captions, with columns `text` (row of `texts`) and `caption`.
        unwanted: Captions to leave out.
        seed: Seed of the order.

    Raises:
        UserError: No caption is left.
    """
    distinct = captions.drop_duplicates("text")
    rows = distinct.loc[~distinct["caption"].isin(unwanted), "text"].to_numpy()
    if not len(rows):
        raise UserError(
            "score_normalisation querybank: every training caption is also a caption of the evaluated split, so that "
            "no query bank is left; leave querybank out"
        )
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return texts[torch.from_numpy(rows.copy())[order]]


def candidates(texts: Tensor, sizes: Sequence[int], betas: Sequence[float], scale: float) -> Iterator[QueryBank]:
    """Yield a query bank for every size and beta; a size beyond the number of captions means all of them."""
    for size in sorted({min(size, len(texts)) for size in sizes}):
        for beta in betas:
            yield QueryBank(texts[:size], beta, scale)


def choose_query_bank(
    embeddings: Tensor,
    texts: Tensor,
    text_image: Tensor,
    rates: Tensor,
    full_macs: int,
    found: Sequence[QueryBank],
    targets: Sequence[float],
    seed: int = 0,
) -> QueryBank:
    """Choose size and beta by the mean text-to-image R@1 on validation images, with the bank's cost charged.

    Images take random exits. The mean rate of these is what is left of the target after paying for the bank, so that
    the choice depends on the heads but not on a policy.

    Args:
        embeddings: Unit embeddings at every exit `[n, E, D]`.
        texts: Captions `[m, D]`.
        text_image: Image of each caption `[m]`.
        rates: Relative cost of every exit `[E]`.
        full_macs: MACs of the encoder.
        found: Query banks to choose from.
        targets: Rate targets.
        seed: Seed of the random exits.
    """
    images = torch.arange(len(embeddings))
    log_sums = {len(bank.texts): bank.log_sums(embeddings) for bank in {len(b.texts): b for b in found}.values()}

    def recall(bank: QueryBank) -> float:
        penalties, hits = bank.beta / bank.scale * log_sums[len(bank.texts)], 0.0
        for target in targets:
            shares = exit_weights(rates, max(target - bank.macs / full_macs, float(rates[0])))
            uniform = torch.rand(len(images), generator=torch.Generator().manual_seed(seed))
            exits = torch.searchsorted(shares.cumsum(0)[:-1].contiguous(), uniform, right=True)
            scored = with_penalties(embeddings[images, exits], penalties[images, exits], texts)
            hits += (text_to_image_ranks(*scored, text_image) < 1).double().mean().item()
        return hits

    return max(found, key=recall)
