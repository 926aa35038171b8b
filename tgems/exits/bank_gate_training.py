"""Train bank-guided gates by optimal stopping on random banks (docs/method.md#bank-guidance)."""

import math
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from tgems.config.training import BankGateOptions
from tgems.costs.exit_costs import ExitCosts
from tgems.exits.bank_modules import PRICES, BankGates, ConfidenceAndVarianceGates, spatial_variance
from tgems.exits.bank_statistics import bank_features
from tgems.exits.training_loop import fit, shuffled_batches
from tgems.exits.training_pairs import Pairs
from tgems.features.row_access import MappedRows, map_rows

SMALLEST_BANK = 4


@dataclass(frozen=True)
class BankExamples:
    """Training examples of bank-guided gates, each of which is one image with one text bank.

    Attributes:
        images: Index of the image of each example `[N]`.
        features: `bank_features` at every exit before the last `[N, E-1, 11]`.
        right: Probability that the last exit gives to each exit's best text `[N, E]`: a soft label of being right.
        sizes: Number of texts in the bank `[N]`.
    """

    images: Tensor
    features: Tensor
    right: Tensor
    sizes: Tensor


def random_bank_size(most: int, generator: torch.Generator) -> int:
    """Draw the number of texts in a bank, log-uniform between `SMALLEST_BANK` and `most`."""
    return max(2, int(SMALLEST_BANK * (most / SMALLEST_BANK) ** torch.rand((), generator=generator).item()))


def bank_logits(pairs: Pairs, z: Tensor, images: Tensor, own: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Compute scaled similarities of images to a bank of `size` texts: one caption of the image, and random others.

    Args:
        pairs: Training pairs.
        z: Embeddings `[B, E, D]`.
        images: `[B]`.
        own: The caption of each image, index into texts `[B]`.
        size: Number of texts M.
        generator: Generator of the draw.

    Returns:
        `[B, E, M]`; -inf where a text is another caption of the image, and therefore not part of its bank.
    """
    others = torch.randperm(len(pairs.texts), generator=generator)[: size - 1]
    logits = torch.cat((torch.einsum("bed,bd->be", z, pairs.texts[own])[..., None], z @ pairs.texts[others].T), -1)
    closed = torch.cat((torch.zeros(len(images), 1, dtype=torch.bool), pairs.owns(images, others)), 1)
    return (pairs.scale * logits).masked_fill_(closed[:, None], -torch.inf)


@torch.no_grad()
def draw_bank_examples(
    pairs: Pairs, z: Tensor | MappedRows, options: BankGateOptions, generator: torch.Generator
) -> BankExamples:
    """Pair every image with random banks, each of one caption of the image and M - 1 others.

    M is log-uniform between 4 and `largest_bank` and the same within a batch. The other texts are drawn from all
    distinct captions; other captions of an image are never in its bank.

    Args:
        pairs: Training pairs.
        z: Embeddings at every exit `[n, E, D]`.
        options: Number and sizes of the banks.
        generator: Generator of the draws.
    """
    most = min(options.largest_bank, len(pairs.texts))
    batches = list(shuffled_batches(len(pairs), options.bank_batch_size, options.banks_per_image, generator))
    parts = []
    for images in tqdm(batches, desc="draw banks", unit="batch", mininterval=2):
        size = random_bank_size(most, generator)
        own = pairs.draw_captions(images, generator)
        logits = bank_logits(pairs, z[images], images, own, size, generator)
        right = logits[:, -1].softmax(-1).gather(1, logits.argmax(-1))
        parts.append((images, bank_features(logits[:, :-1], pairs.scale), right, torch.isfinite(logits[:, 0]).sum(1)))
    return BankExamples(*(torch.cat(p) for p in zip(*parts, strict=True)))


def train_bank_gates(
    pairs: Pairs, z: Tensor | MappedRows, costs: ExitCosts, options: BankGateOptions, seed: int
) -> tuple[BankGates, pd.DataFrame]:
    """Train one network for all prices of computation.

    At each exit it learns, by cross-entropy, whether the best text is right, and, by regression, what going on is worth
    at a random price. The latter is fitted value iteration backwards through the exits, as in the valuation of American
    options (Longstaff & Schwartz 2001; Tsitsiklis & Van Roy 2001). Exits are skipped at random in training, since not
    all of them will be visited.

    Args:
        pairs: Training pairs.
        z: Embeddings at every exit `[n, E, D]` by the frozen heads.
        costs: Costs of the exits and of bank products.
        options: Width, steps and banks.
        seed: Seed.
    """
    torch.manual_seed(seed)
    examples = draw_bank_examples(pairs, z, options, torch.Generator().manual_seed(seed))
    _, exits, dim = pairs.summaries.shape
    gates = BankGates(exits, dim, options.hidden, pairs.widths)
    pairs.prepare(gates.norm)
    encoder = torch.tensor(costs.encoder, dtype=torch.float32) / costs.full
    module = torch.tensor(costs.head) + torch.tensor(costs.gates["bank"])
    low, high = PRICES

    def loss(batch: Tensor, generator: torch.Generator) -> Tensor:
        price = low * torch.exp(math.log(high / low) * torch.rand(len(batch), generator=generator))
        hidden = gates.embed_normalised(pairs.normalised[examples.images[batch]], examples.features[batch])
        right, stay = gates.right(hidden), gates.worth(hidden, price)
        product = examples.sizes[batch] * costs.embed_dim
        visited = torch.rand(exits, generator=generator) >= options.pass_over
        worth = worth_of_going_on(
            right.detach().sigmoid(),
            stay.detach(),
            examples.right[batch, -1],
            price,
            encoder,
            module / costs.full,
            product / costs.full,
            visited,
        )
        told = nn.functional.binary_cross_entropy_with_logits(right, examples.right[batch, :-1])
        return told + 4 * nn.functional.mse_loss(stay, worth.clamp_min(-1))

    return gates, fit(gates, loss, len(examples.images), options, seed, "bank gates")


def train_variance_gates(
    pairs: Pairs, z: Tensor | MappedRows, options: BankGateOptions, seed: int
) -> tuple[ConfidenceAndVarianceGates, pd.DataFrame]:
    """Train gates on probability, margin and spatial variance to predict whether an exit's best text is right.

    They learn by cross-entropy from the same random banks and soft labels as `train_bank_gates`.

    Args:
        pairs: Training pairs.
        z: Embeddings at every exit `[n, E, D]` by the frozen heads.
        options: Width, steps and banks.
        seed: Seed.
    """
    torch.manual_seed(seed)
    examples = draw_bank_examples(pairs, z, options, torch.Generator().manual_seed(seed))
    _, exits, dim = pairs.summaries.shape
    gates = ConfidenceAndVarianceGates(exits, dim, options.hidden, pairs.part_width, pairs.widths)
    variance = map_rows(lambda rows: spatial_variance(rows, pairs.part_width), pairs.summaries)
    first, margin = examples.features[..., 0], examples.features[..., 1]
    inputs = torch.stack((first, margin, variance[examples.images]), -1)
    gates.standardise(inputs)

    def loss(batch: Tensor, generator: torch.Generator) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(gates(inputs[batch]), examples.right[batch, :-1])

    return gates, fit(gates, loss, len(examples.images), options, seed, "variance gates")


def worth_of_going_on(
    right: Tensor,
    stay: Tensor,
    last: Tensor,
    price: Tensor,
    encoder: Tensor,
    module: Tensor,
    product: Tensor,
    visited: Tensor,
) -> Tensor:
    """Take one step of value iteration: the worth of going on from each exit to the next visited one.

    Args:
        right: Estimated probability of being right `[B, E-1]`.
        stay: Estimated worth of going on `[B, E-1]`.
        last: Probability of being right at the last exit `[B]`.
        price: Price of the whole encoder's computation `[B]`.
        encoder: Relative cost of reaching every exit `[E]`.
        module: Relative cost of head and gate at each exit `[E-1]`.
        product: Relative cost of comparing the image with its bank `[B]`, which is paid at a visited exit that is not
            taken.
        visited: Whether each exit is visited `[E-1]` bool.

    Returns:
        `[B, E-1]`.
    """
    worth = torch.empty_like(stay)
    value, reached, paid = last, encoder[-1], 0.0
    for k in range(stay.shape[1] - 1, -1, -1):
        worth[:, k] = value - price * (reached - encoder[k] + paid + product)
        if visited[k]:
            value, reached, paid = torch.maximum(right[:, k], stay[:, k]), encoder[k], module[k]
    return worth
