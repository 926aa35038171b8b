"""Train heads and gates on cached features. Reads feature sets, writes one folder per trained module."""

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from tgems.errors import UserError
from tgems.exits import losses
from tgems.exits.modules import BankGates, ExitHeads, ImageGates, bank_features, bank_history
from tgems.features.cache import FeatureSet


@dataclass(frozen=True)
class Pairs:
    """Training pairs on which everything is a tensor; captions of one image are drawn from its own.

    Attributes:
        summaries: `[n, E-1, 2d]`, without the last exit.
        last: `[n, D]`.
        texts: Distinct captions `[m, D]`.
        first: First caption row of each image `[n + 1]`.
        text_of_caption: `[captions]` index into texts.
        scale: Logit scale.
    """

    summaries: Tensor
    last: Tensor
    texts: Tensor
    first: Tensor
    text_of_caption: Tensor
    scale: float

    @classmethod
    def of(cls, features: FeatureSet) -> "Pairs":
        """Take what training needs from a retrieval feature set."""
        if features.captions is None:
            raise UserError("exit modules are trained on captions, but the training data set is a classification set")
        counts = torch.bincount(features.text_image, minlength=len(features.samples))
        return cls(
            summaries=features.summaries[:, :-1],
            last=features.embeddings,
            texts=features.texts,
            first=torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0))),
            text_of_caption=torch.from_numpy(features.captions["text"].to_numpy().copy()),
            scale=features.manifest["logit_scale"],
        )

    def __len__(self) -> int:
        return len(self.last)

    def draw_captions(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """One caption of each image: `[B] -> [B]` index into `texts`."""
        counts = self.first[images + 1] - self.first[images]
        offset = (torch.rand(len(images), generator=generator) * counts).long()
        return self.text_of_caption[self.first[images] + offset]

    def batches(self, batch_size: int, passes: int, generator: torch.Generator):
        """Shuffled batches of image indices; a last incomplete batch of a pass is dropped."""
        size = min(batch_size, len(self))
        for _ in range(passes):
            order = torch.randperm(len(self), generator=generator)
            yield from order[: len(order) // size * size].split(size)


def one_cycle(optimizer: torch.optim.Optimizer, peak: float, steps: int):
    """The learning-rate schedule of all exit training: one cycle, 10 % warm-up, cosine; twenty steps at least."""
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=max(steps, 20), pct_start=0.1)


def train_heads(pairs: Pairs, rates: Tensor, options: dict, seed: int) -> tuple[ExitHeads, pd.DataFrame]:
    """Train the heads of all exits together.

    Args:
        pairs: Training pairs.
        rates: Relative cost of every exit `[E]`.
        options: `hidden`, `passes`, `batch_size`, `learning_rate`, `weight_decay`, `text`, `mixture`, `distill`, and
            `rate_target` where exits are not weighed equally.
        seed: Seed of initialisation and order.

    Returns:
        Frozen heads, and the loss over steps.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    n, exits, dim = pairs.summaries.shape
    heads = ExitHeads(exits, dim, options["hidden"], pairs.last.shape[1])
    optimizer = torch.optim.AdamW(heads.parameters(), weight_decay=options["weight_decay"])
    batches = list(pairs.batches(options["batch_size"], options["passes"], generator))
    schedule = one_cycle(optimizer, options["learning_rate"], len(batches) + 1)
    weights = losses.exit_weights(rates, options["rate_target"])
    history = []
    for step, images in enumerate(tqdm(batches, desc=f"heads seed {seed}", unit="step", mininterval=2)):
        ids = pairs.draw_captions(images, generator)
        drawn = torch.multinomial(weights, len(images), replacement=True, generator=generator)
        loss = losses.head_loss(
            heads(pairs.summaries[images]),
            pairs.last[images],
            pairs.texts[ids],
            losses.soft_targets(ids),
            pairs.scale,
            drawn,
            weights[:-1] / weights[:-1].sum(),
            options["text"],
            options["mixture"],
            options["distill"],
        )
        _step(optimizer, schedule, loss, heads)
        if step % 20 == 0:
            history.append({"step": step, "loss": loss.item()})
    return heads.eval().requires_grad_(False), pd.DataFrame(history)


def _step(optimizer, schedule, loss: Tensor, module: nn.Module) -> None:
    if not torch.isfinite(loss):
        raise FloatingPointError(f"loss is {loss.item()}: lower the learning rate")
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    schedule.step()


@torch.no_grad()
def embed(heads: ExitHeads, summaries: Tensor, last: Tensor, batch_size: int = 4096) -> Tensor:
    """Embeddings at every exit, the backbone's own last: `[n, E-1, 2d]`, `[n, D]` -> `[n, E, D]`."""
    z = torch.cat([heads(part) for part in summaries.split(batch_size)])
    return torch.cat((z, last[:, None]), 1)


def train_image_gates(
    pairs: Pairs, z: Tensor, rates: Tensor, target: float, options: dict, seed: int
) -> tuple[ImageGates, pd.DataFrame]:
    """Train index-safe gates for one rate target: first regress the loss gap, then minimise the regularized objective.

    Args:
        pairs: Training pairs.
        z: Embeddings at every exit `[n, E, D]` by the frozen heads.
        rates: Relative cost of every exit `[E]`.
        target: Rate target.
        options: `hidden`, `warmup_passes`, `passes`, `batch_size`, `learning_rate`, `entropy`, `regularizer`, `kappa`,
            `eta`.
        seed: Seed.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    _, exits, dim = pairs.summaries.shape
    gates = ImageGates(exits, dim, options["hidden"])
    warmup = list(pairs.batches(options["batch_size"], options["warmup_passes"], generator))
    batches = list(pairs.batches(options["batch_size"], options["passes"], generator))
    optimizer = torch.optim.AdamW(gates.parameters(), weight_decay=options["weight_decay"])
    schedule = one_cycle(optimizer, options["learning_rate"], len(warmup) + len(batches) + 1)
    regularizer = losses.RateRegularizer(
        options["regularizer"], target, options["kappa"], options["eta"], options["lambda"]
    )
    history = []
    bar = tqdm([*warmup, *batches], desc=f"gates rate {target:.2f} seed {seed}", unit="step", mininterval=2)
    for step, images in enumerate(bar):
        log_pi = losses.exit_log_probabilities(logits := gates(pairs.summaries[images]))
        cost = exit_losses(pairs, z, images, log_pi, generator)
        rate = (log_pi.exp() @ rates).mean()
        if step < len(warmup):
            gap = (cost[:, :-1] - cost[:, -1:]).clamp(-10, 10)
            loss = nn.functional.smooth_l1_loss(-logits, gap)
        else:
            entropy = -(log_pi.exp() * log_pi).sum(-1).mean()
            loss = (log_pi.exp() * cost).sum(-1).mean() - options["entropy"] * entropy + regularizer(rate)
        _step(optimizer, schedule, loss, gates)
        if step % 20 == 0 or step == len(warmup) + len(batches) - 1:
            hard = hard_rate(logits, rates)
            history.append(
                {"step": step, "loss": loss.item(), "rate": rate.item(), "rate_at_zero": hard, "mu": regularizer.mu}
            )
    return gates.eval().requires_grad_(False), pd.DataFrame(history)


@torch.no_grad()
def exit_losses(pairs: Pairs, z: Tensor, images: Tensor, log_pi: Tensor, generator: torch.Generator) -> Tensor:
    """D' of METHOD: each pair's loss if it left at each exit and the others where pi draws them, `[B, E]`."""
    ids = pairs.draw_captions(images, generator)
    texts, target, batch = pairs.texts[ids], losses.soft_targets(ids), z[images]
    drawn = torch.multinomial(log_pi.exp(), 1, generator=generator).squeeze(1)
    mixed = batch[torch.arange(len(images)), drawn]
    image_to_text = losses.image_to_text_loss(batch, texts, target, pairs.scale)
    text_to_image = losses.text_to_image_loss(batch, mixed, texts, target, pairs.scale)
    return (image_to_text + text_to_image) / 2


def hard_rate(logits: Tensor, rates: Tensor) -> float:
    """Mean rate if every image left at its first positive gate logit, before any calibration."""
    leaves = torch.cat((logits > 0, torch.ones(len(logits), 1, dtype=torch.bool)), 1)
    return rates[leaves.float().argmax(1)].mean().item()


@dataclass(frozen=True)
class BankExamples:
    """What bank gates learn from: `history [N, E-1, 16]`, `images [N]`, `right [N, E-1]`, `right_last [N]`."""

    history: Tensor
    images: Tensor
    right: Tensor
    right_last: Tensor


@torch.no_grad()
def draw_bank_examples(pairs: Pairs, z: Tensor, options: dict, generator: torch.Generator) -> BankExamples:
    """Give every image a random bank: its own caption among M - 1 others of its batch, M log-uniform in [4, B]."""
    parts = []
    batches = list(pairs.batches(options["bank_batch_size"], options["banks_per_image"], generator))
    for images in tqdm(batches, desc="draw banks", unit="batch", mininterval=2):
        size = len(images)
        ids = pairs.draw_captions(images, generator)
        equal = ids[:, None] == ids[None, :]
        m = (4 * (size / 4) ** torch.rand(size, generator=generator)).long().clamp(2, size)
        order = torch.rand(size, size, generator=generator).masked_fill(equal, 2.0)
        order[torch.arange(size), torch.arange(size)] = -1.0
        kept = order <= order.sort(dim=1).values[torch.arange(size), m - 1, None]
        kept &= (order < 2.0) | torch.eye(size, dtype=torch.bool)
        logits = pairs.scale * torch.einsum("bed,md->bem", z[images], pairs.texts[ids])
        logits = logits.masked_fill(~kept[:, None], -torch.inf)
        right = logits.argmax(-1) == torch.arange(size)[:, None]
        history = bank_history(bank_features(logits[:, :-1]), kept.sum(1))
        parts.append((history, images, right[:, :-1].float(), right[:, -1].float()))
    return BankExamples(*(torch.cat(p) for p in zip(*parts, strict=True)))


def train_bank_gates(pairs: Pairs, z: Tensor, options: dict, seed: int) -> tuple[BankGates, pd.DataFrame]:
    """Train bank gates to tell whether the image is right here (p) and will be right at the end (q), by BCE.

    One network serves all rate targets: the exit rule trades q - p against what remains to be paid
    (docs/method.md#bank-guidance).

    Args:
        pairs: Training pairs.
        z: Embeddings at every exit `[n, E, D]` by the frozen heads.
        options: `hidden`, `passes`, `batch_size`, `banks_per_image`, `learning_rate`, `weight_decay`.
        seed: Seed.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    examples = draw_bank_examples(pairs, z, options, generator)
    _, exits, dim = pairs.summaries.shape
    gates = BankGates(exits, dim, options["hidden"])
    optimizer = torch.optim.AdamW(gates.parameters(), weight_decay=options["weight_decay"])
    size = min(options["batch_size"], len(examples.images))
    batches = [
        b
        for _ in range(options["passes"])
        for b in torch.randperm(len(examples.images), generator=generator).split(size)
    ]
    schedule = one_cycle(optimizer, options["learning_rate"], len(batches) + 1)
    history = []
    for step, batch in enumerate(tqdm(batches, desc=f"bank gates seed {seed}", unit="step", mininterval=2)):
        logits = gates(pairs.summaries[examples.images[batch]], examples.history[batch])
        target = torch.stack((examples.right[batch], examples.right_last[batch, None].expand(-1, exits)), -1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, target)
        _step(optimizer, schedule, loss, gates)
        if step % 20 == 0:
            history.append({"step": step, "loss": loss.item()})
    return gates.eval().requires_grad_(False), pd.DataFrame(history)


def train_confidence_gates(pairs: Pairs, z: Tensor, options: dict, seed: int) -> tuple[ImageGates, pd.DataFrame]:
    """Train gates that see the image alone to tell whether its text ranks first in its batch at each exit, by BCE.

    Args:
        pairs: Training pairs.
        z: Embeddings at every exit `[n, E, D]` by the frozen heads.
        options: `hidden`, `passes`, `batch_size`, `learning_rate`, `weight_decay`.
        seed: Seed.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    _, exits, dim = pairs.summaries.shape
    gates = ImageGates(exits, dim, options["hidden"])
    optimizer = torch.optim.AdamW(gates.parameters(), weight_decay=options["weight_decay"])
    batches = list(pairs.batches(options["batch_size"], options["passes"], generator))
    schedule = one_cycle(optimizer, options["learning_rate"], len(batches) + 1)
    history = []
    for step, images in enumerate(tqdm(batches, desc=f"confidence gates seed {seed}", unit="step", mininterval=2)):
        ids = pairs.draw_captions(images, generator)
        winner = torch.einsum("bed,md->bem", z[images, :-1], pairs.texts[ids]).argmax(-1)
        right = (ids[winner] == ids[:, None]).float()
        loss = nn.functional.binary_cross_entropy_with_logits(gates(pairs.summaries[images]), right)
        _step(optimizer, schedule, loss, gates)
        if step % 20 == 0:
            history.append({"step": step, "loss": loss.item()})
    return gates.eval().requires_grad_(False), pd.DataFrame(history)
