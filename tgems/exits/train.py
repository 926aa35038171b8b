"""Train heads, and gates without a rate, on cached training pairs. Pure: tensors in, frozen modules out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from tgems.errors import UserError
from tgems.exits import losses
from tgems.exits.modules import ExitHeads, ImageGates
from tgems.features.cache import FeatureSet
from tgems.features.rows import MappedRows, Rows, by_rows


@dataclass(frozen=True)
class Pairs:
    """Training pairs on which everything is a tensor; captions of one image are drawn from its own.

    Attributes:
        summaries: Before the last exit `[n, E-1, S]`, by rows.
        last: `[n, D]`.
        texts: Distinct captions `[m, D]`.
        first: First caption row of each image `[n + 1]`.
        text_of_caption: `[captions]` index into texts.
        longest: The longest caption of each image, most likely to be true of it alone `[n]` index into texts.
        scale: Logit scale.
        widths: True width of either part of a summary, per exit; None where all are equal.
    """

    summaries: Rows
    last: Tensor
    texts: Tensor
    first: Tensor
    text_of_caption: Tensor
    longest: Tensor
    scale: float
    widths: tuple[int, ...] | None = None

    @classmethod
    def of(cls, features: FeatureSet) -> "Pairs":
        """Take what training needs from a retrieval feature set."""
        if features.captions is None:
            raise UserError("exit modules are trained on captions, but the training data set is a classification set")
        counts = torch.bincount(features.text_image, minlength=len(features.samples))
        words = features.captions["caption"].str.split().str.len()
        longest = features.captions.iloc[words.groupby(features.captions["image"]).idxmax()]
        return cls(
            summaries=features.summaries,
            last=features.embeddings,
            texts=features.texts,
            first=torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0))),
            text_of_caption=torch.from_numpy(features.captions["text"].to_numpy().copy()),
            longest=torch.from_numpy(longest["text"].to_numpy().copy()),
            scale=features.manifest["logit_scale"],
            widths=features.widths,
        )

    def __len__(self) -> int:
        return len(self.last)

    def draw_captions(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """One caption of each image: `[B] -> [B]` index into `texts`."""
        counts = self.first[images + 1] - self.first[images]
        offset = (torch.rand(len(images), generator=generator) * counts).long()
        return self.text_of_caption[self.first[images] + offset]

    def owns(self, images: Tensor, texts: Tensor) -> Tensor:
        """Whether a text is one of an image's captions: `[B]`, `[m]` -> `[B, m]` bool."""
        place = torch.full((len(self.texts),), -1)
        place[texts] = torch.arange(len(texts))
        counts = self.first[images + 1] - self.first[images]
        row = torch.repeat_interleave(torch.arange(len(images)), counts)
        start = torch.repeat_interleave(self.first[images] - (counts.cumsum(0) - counts), counts)
        column = place[self.text_of_caption[start + torch.arange(len(row))]]
        owned = torch.zeros(len(images), len(texts), dtype=torch.bool)
        owned[row[column >= 0], column[column >= 0]] = True
        return owned


def train_heads(pairs: Pairs, rates: Tensor, options: dict, seed: int) -> tuple[ExitHeads, pd.DataFrame]:
    """Train the heads of all exits together.

    Args:
        pairs: Training pairs.
        rates: Relative cost of every exit `[E]`.
        options: `hidden`, `passes`, `batch_size`, `learning_rate`, `weight_decay`, those of `losses.head_loss`,
            and `rate_target` where exits are not weighed equally.
        seed: Seed of initialisation and order.

    Returns:
        Frozen heads, and the loss over steps.
    """
    torch.manual_seed(seed)
    _, exits, dim = pairs.summaries.shape
    heads = ExitHeads(exits, dim, options["hidden"], pairs.last.shape[1], pairs.widths)
    shares = losses.exit_weights(rates, options["rate_target"])

    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        ids = pairs.draw_captions(images, generator)
        z, last = heads(pairs.summaries[images]), pairs.last[images]
        return losses.head_loss(z, last, pairs.texts[ids], ids, pairs.scale, shares, options)

    return heads, fit(heads, loss, len(pairs), options, seed, "heads")


def fit(module: nn.Module, loss_of: Callable, n: int, options: dict, seed: int, name: str) -> pd.DataFrame:
    """Minimise a loss over shuffled batches by AdamW on a one-cycle schedule, then freeze the module.

    Args:
        module: What is trained, in place.
        loss_of: (indices of a batch, generator) -> loss `[]`.
        n: Number of examples; a last incomplete batch of a pass is dropped.
        options: `passes`, `batch_size`, `learning_rate`, `weight_decay`.
        seed: Seed of the order and of what `loss_of` draws.
        name: For the progress bar.

    Returns:
        The loss every twenty steps and at the end.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = list(shuffled_batches(n, options["batch_size"], options["passes"], generator))
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=options["weight_decay"])
    total = max(len(batches) + 1, 20)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options["learning_rate"], total_steps=total, pct_start=0.1
    )
    history = []
    for step, batch in enumerate(tqdm(batches, desc=f"{name}, seed {seed}", unit="step", mininterval=2)):
        loss = loss_of(batch, generator)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{name}: loss is {loss.item()}: lower the learning rate")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == len(batches) - 1:
            history.append({"step": step, "loss": loss.item()})
    module.eval().requires_grad_(False)
    return pd.DataFrame(history, columns=["step", "loss"])


def shuffled_batches(n: int, batch_size: int, passes: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of indices below `n`; a last incomplete batch of a pass is dropped."""
    size = min(batch_size, n)
    for _ in range(passes):
        order = torch.randperm(n, generator=generator)
        yield from order[: n // size * size].split(size)


def embed(heads: ExitHeads, summaries: Rows | Tensor, last: Tensor) -> Tensor:
    """Embeddings at every exit, the backbone's own last: `[n, E-1, S]`, `[n, D]` -> `[n, E, D]`."""
    return torch.cat((by_rows(heads, summaries), last[:, None]), 1)


def embed_where_asked(heads: ExitHeads, summaries: Rows, last: Tensor) -> MappedRows:
    """The same, each row computed where it is asked for, since all of them need not fit in memory."""

    @torch.no_grad()
    def rows(images: Tensor) -> Tensor:
        return torch.cat((heads(summaries[images]), last[images, None]), 1)

    return MappedRows(rows, (len(last), summaries.shape[1] + 1, last.shape[1]))


def train_confidence_gates(
    pairs: Pairs, z: Tensor | MappedRows, options: dict, seed: int
) -> tuple[ImageGates, pd.DataFrame]:
    """Train gates that see the image alone to tell whether its text ranks first in its batch at each exit, by BCE.

    Args:
        pairs: Training pairs.
        z: Embeddings at every exit `[n, E, D]` by the frozen heads.
        options: `hidden`, `passes`, `batch_size`, `learning_rate`, `weight_decay`.
        seed: Seed.
    """
    torch.manual_seed(seed)
    _, exits, dim = pairs.summaries.shape
    gates = ImageGates(exits, dim, options["hidden"], widths=pairs.widths)

    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        ids = pairs.draw_captions(images, generator)
        winner = torch.einsum("bed,md->bem", z[images][:, :-1], pairs.texts[ids]).argmax(-1)
        right = (ids[winner] == ids[:, None]).float()
        return nn.functional.binary_cross_entropy_with_logits(gates(pairs.summaries[images]), right)

    return gates, fit(gates, loss, len(pairs), options, seed, "confidence gates")
