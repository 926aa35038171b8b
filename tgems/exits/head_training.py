"""Train heads, and gates without a rate target, on cached training pairs. Reads and writes no files."""

import pandas as pd
import torch
from torch import Tensor, nn

from tgems.config.training import ConfidenceTraining, HeadOptions
from tgems.exits import losses
from tgems.exits.modules import ExitHeads, ImageGates
from tgems.exits.ridge_start import start_from_ridge
from tgems.exits.training_loop import fit
from tgems.exits.training_pairs import Pairs
from tgems.features.row_access import MappedRows, Rows, map_rows


def train_heads(
    pairs: Pairs, rates: Tensor, options: HeadOptions, seed: int, among: Tensor | None = None
) -> tuple[ExitHeads, pd.DataFrame]:
    """Train the heads of all exits together.

    Args:
        pairs: Training pairs.
        rates: Relative cost of every exit `[E]`.
        options: Sizes, losses and steps.
        seed: Seed of initialisation and order.
        among: Images to train on `[m]`; None for all.

    Returns:
        Frozen heads, and the loss over steps.
    """
    torch.manual_seed(seed)
    _, exits, dim = pairs.summaries.shape
    heads = ExitHeads(exits, dim, options.hidden, pairs.last.shape[1], pairs.widths)
    pairs.prepare(heads.norm)
    if options.start == "ridge":
        start_from_ridge(heads, pairs, options.whiten, among)
    shares = losses.exit_weights(rates, options.rate_target)
    inputs = pairs.whitened if options.whiten else pairs.normalised

    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        images = images if among is None else among[images]
        ids = pairs.draw_captions(images, generator)
        z, last = heads.embed_normalised(inputs[images]), pairs.last[images]
        return losses.head_loss(z, last, pairs.texts[ids], ids, pairs.scale, shares, options)

    history = fit(heads, loss, len(pairs if among is None else among), options, seed, "heads", options.products)
    if options.whiten:
        heads.fold(pairs.whitening)
    return heads, history


def cross_fit(pairs: Pairs, rates: Tensor, options: HeadOptions, seed: int) -> tuple[list[ExitHeads], Tensor]:
    """Train heads on either half of the images, so that gates can learn from heads that have not seen an image.

    Heads that were trained on an image are right about it far more often than about a new one, so that gates which
    learn from them see too few mistakes.

    Args:
        pairs: Training pairs.
        rates: Relative cost of every exit `[E]`.
        options: Those of `train_heads`.
        seed: Seed.

    Returns:
        Two heads, and for each image the number of the heads that have not seen it `[n]` uint8.
    """
    unseen_by = torch.zeros(len(pairs), dtype=torch.uint8)
    unseen_by[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))[::2]] = 1
    chosen = options.model_copy(update={"passes": options.fold_passes})
    halves = [(unseen_by != fold).nonzero()[:, 0] for fold in (0, 1)]
    return [train_heads(pairs, rates, chosen, seed, half)[0] for half in halves], unseen_by


def embed(heads: ExitHeads, summaries: Rows | Tensor, last: Tensor) -> Tensor:
    """Embed images at every exit, by the backbone itself at the last: `[n, E-1, S]`, `[n, D]` -> `[n, E, D]`."""
    return torch.cat((map_rows(heads, summaries), last[:, None]), 1)


def embed_out_of_fold(folds: list[ExitHeads], unseen_by: Tensor, pairs: Pairs) -> Tensor | MappedRows:
    """Embed each image at every exit `[n, E, D]` by the heads that have not seen it, and by the backbone at the last.

    Args:
        folds: Heads.
        unseen_by: Number of the heads that embed each image `[n]` uint8.
        pairs: Training pairs; where their summaries are streamed, rows are computed on request.
    """

    @torch.no_grad()
    def rows(images: Tensor) -> Tensor:
        summaries, owner = pairs.summaries[images], unseen_by[images]
        z = torch.empty(len(images), summaries.shape[1], pairs.last.shape[1])
        for fold, heads in enumerate(folds):
            z[owner == fold] = heads(summaries[owner == fold])
        return torch.cat((z, pairs.last[images, None]), 1)

    if pairs.streamed:
        return MappedRows(rows, (len(pairs), pairs.summaries.shape[1] + 1, pairs.last.shape[1]))
    return torch.cat([rows(images) for images in torch.arange(len(pairs)).split(4096)])


def train_confidence_gates(
    pairs: Pairs, z: Tensor | MappedRows, options: ConfidenceTraining, seed: int
) -> tuple[ImageGates, pd.DataFrame]:
    """Train gates that see only the image to predict whether its text ranks first in its batch at each exit, by BCE.

    Args:
        pairs: Training pairs.
        z: Embeddings at every exit `[n, E, D]` by the frozen heads.
        options: Width and steps.
        seed: Seed.
    """
    torch.manual_seed(seed)
    _, exits, dim = pairs.summaries.shape
    gates = ImageGates(exits, dim, options.hidden, widths=pairs.widths)
    pairs.prepare(gates.norm)

    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        ids = pairs.draw_captions(images, generator)
        winner = torch.einsum("bed,md->bem", z[images][:, :-1], pairs.texts[ids]).argmax(-1)
        right = (ids[winner] == ids[:, None]).float()
        logits = gates.outputs_of_normalised(pairs.normalised[images]).squeeze(-1)
        return nn.functional.binary_cross_entropy_with_logits(logits, right)

    return gates, fit(gates, loss, len(pairs), options, seed, "confidence gates")
