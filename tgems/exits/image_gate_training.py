"""Train image-guided gates: first to predict correctness, then under the rate regularizer (docs/method.md#gates)."""

import copy

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from tgems.config.training import ImageGateOptions, LookaheadOptions, RouterTraining
from tgems.exits import losses
from tgems.exits.modules import ImageGates, LookaheadGates
from tgems.exits.thresholds import fit_threshold
from tgems.exits.training_loop import fit
from tgems.exits.training_pairs import Pairs
from tgems.features.row_access import MappedRows, Rows, map_rows


@torch.no_grad()
def hit_probabilities(pairs: Pairs, z: Tensor | MappedRows, bank_size: int, generator: torch.Generator) -> Tensor:
    """Estimate the probability that an image's longest caption ranks first at each exit among `bank_size - 1` others.

    It follows from the share of a batch's other captions that score at least as high, without equal captions.

    Args:
        pairs: Training pairs.
        z: Embeddings at every exit `[n, E, D]`.
        bank_size: Number of texts in the bank.
        generator: Generator of the draw.

    Returns:
        `[n, E]`.
    """
    beaten = torch.empty(*z.shape[:2])
    order = torch.randperm(len(pairs), generator=generator)
    for images in order.tensor_split(max(1, len(pairs) // bank_size)):  # a short batch would tell little of a bank
        ids = pairs.longest[images]
        same = ids[:, None] == ids[None, :]
        others = (~same).sum(1).clamp_min(1)
        embedded = z[images]
        for k in range(z.shape[1]):
            scores = embedded[:, k] @ pairs.texts[ids].T
            own = scores.diagonal()[:, None].clone()
            beaten[images, k] = (scores.masked_fill_(same, -torch.inf) >= own).sum(1) / others
    return (1 - beaten) ** (bank_size - 1)


def train_lookahead(
    pairs: Pairs, right: Tensor, rates: Tensor, options: LookaheadOptions, seed: int
) -> tuple[LookaheadGates, pd.DataFrame]:
    """Train gates to predict, from one exit's summary, how probably the image is right there and at all later exits.

    Args:
        pairs: Training pairs.
        right: `hit_probabilities` `[n, E]`.
        rates: Relative cost of every exit `[E]`.
        options: Width, temperature and steps.
        seed: Seed.
    """
    torch.manual_seed(seed)
    _, exits, dim = pairs.summaries.shape
    gates = LookaheadGates(exits, dim, options.hidden, rates.tolist(), options.temperature, pairs.widths)
    pairs.prepare(gates.norm)
    later = torch.ones(exits, exits + 1, dtype=torch.bool).triu()

    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        logits = gates.outputs_of_normalised(pairs.normalised[images])
        target = right[images][:, None].expand_as(logits)
        return nn.functional.binary_cross_entropy_with_logits(logits[:, later], target[:, later])

    return gates, fit(gates, loss, len(pairs), options.foresight, seed, "lookahead gates")


def train_image_gates(
    pairs: Pairs,
    right: Tensor,
    rates: Tensor,
    foresight: LookaheadGates,
    target: float,
    options: ImageGateOptions,
    seed: int,
) -> tuple[LookaheadGates, pd.DataFrame]:
    """Train the gates of one rate target under the rate regularizer, starting from lookahead gates.

    Minimises `E sum_l pi_l (1 - hit_l) + regularizer(R)`, `R = E sum_l pi_l r_l`. In mode `lagrangian` the price in the
    gates is the multiplier, which starts at the price at which the lookahead gates meet the target on the training
    images.

    Args:
        pairs: Training pairs.
        right: `hit_probabilities` `[n, E]` that the lookahead gates learned from.
        rates: Relative cost of every exit `[E]`.
        foresight: Lookahead gates of the same seed, which are not changed.
        target: Rate target.
        options: Steps and regularizer.
        seed: Seed.

    Returns:
        Frozen gates; and the loss, expected rate and price over steps, with the rate at a positive logit at the end.
    """
    gates = copy.deepcopy(foresight).requires_grad_(True)
    gates.norm.requires_grad_(False)
    with torch.no_grad():
        start = map_rows(foresight, pairs.summaries).double() * foresight.temperature
    price = -fit_threshold(start, rates.double().numpy(), target)[0]
    if options.regularizer == "lambda":
        price = options.lambda_
    gates.price.fill_(price)
    regularizer = losses.RateRegularizer(
        options.regularizer, target, options.kappa, options.eta, options.lambda_, price
    )
    seen: list[dict] = []

    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        if options.regularizer == "lagrangian":
            gates.price.fill_(regularizer.mu)
        log_pi = losses.exit_log_probabilities(gates.decide(gates.outputs_of_normalised(pairs.normalised[images])))
        pi = log_pi.exp()
        rate = (pi @ rates).mean()
        seen.append({"rate": rate.item(), "price": gates.price.item()})
        entropy = -(pi * log_pi).sum(-1).mean()
        return (pi * (1 - right[images])).sum(-1).mean() + regularizer(rate) - options.entropy * entropy

    history = fit(gates, loss, len(pairs), options, seed, f"image gates, rate {target:.2f}")
    if options.regularizer == "lagrangian":
        gates.price.fill_(regularizer.mu)
    history = history.join(pd.DataFrame(seen, columns=["rate", "price"]), on="step")
    history["rate_at_zero"] = np.nan
    end = {"step": len(seen), "price": gates.price.item(), "rate_at_zero": hard_rate(gates, pairs.summaries, rates)}
    return gates, pd.concat([history, pd.DataFrame([end])], ignore_index=True)


def train_router(pairs: Pairs, right: Tensor, options: RouterTraining, seed: int) -> tuple[ImageGates, pd.DataFrame]:
    """Train gates to predict, from one exit's summary, how simple the image is, by cross-entropy.

    The simplicity of an image is the share of exits before the last at which its longest caption ranks first.

    Args:
        pairs: Training pairs.
        right: `hit_probabilities` `[n, E]`.
        options: Width and steps.
        seed: Seed.
    """
    torch.manual_seed(seed)
    _, exits, dim = pairs.summaries.shape
    gates = ImageGates(exits, dim, options.hidden, widths=pairs.widths)
    pairs.prepare(gates.norm)
    simplicity = right[:, :-1].mean(1, keepdim=True)

    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        logits = gates.outputs_of_normalised(pairs.normalised[images]).squeeze(-1)
        return nn.functional.binary_cross_entropy_with_logits(logits, simplicity[images].expand_as(logits))

    return gates, fit(gates, loss, len(pairs), options, seed, "router")


@torch.no_grad()
def hard_rate(gates: LookaheadGates, summaries: Rows, rates: Tensor) -> float:
    """Return the mean rate if images leave at the first positive gate logit, which the regularizer alone achieves."""
    leaves = torch.cat((map_rows(gates, summaries) > 0, torch.ones(len(summaries), 1, dtype=torch.bool)), 1)
    return rates[leaves.int().argmax(1)].mean().item()
