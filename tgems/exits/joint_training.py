"""Train heads and gates of one rate target together, end to end (docs/method.md#joint-training)."""

import math

import pandas as pd
import torch
from torch import Tensor, nn

from tgems.config.training import JointTraining
from tgems.costs.exit_costs import ExitCosts
from tgems.exits import losses
from tgems.exits.bank_gate_training import bank_logits, random_bank_size
from tgems.exits.bank_modules import JointBankGates
from tgems.exits.bank_statistics import bank_features
from tgems.exits.modules import ExitHeads, ImageGates
from tgems.exits.ridge_start import start_from_ridge
from tgems.exits.training_loop import fit
from tgems.exits.training_pairs import Pairs


def train_joint(
    pairs: Pairs, costs: ExitCosts, guidance: str, target: float, options: JointTraining, seed: int
) -> tuple[ExitHeads, ImageGates | JointBankGates, pd.DataFrame]:
    """Minimise the text losses at the exit taken, in expectation, plus the rate regularizer.

    With pi the exit distribution of the gates and l the losses of `losses.per_exit_losses`:
    `E sum_l pi_l l_l + every_exit * E mean_l l_l + regularizer(R)`, `R = E sum_l pi_l r_l`. Other images are in the
    mixed gallery with their own exit distribution, through which no gradient flows: gates would otherwise learn to send
    images to exits where they disturb each other least. At first only heads are trained, by the second term: gates
    that see the losses of untrained heads send every image to the last exit.

    Args:
        pairs: Training pairs.
        costs: Costs of the exits.
        guidance: `image` or `bank`, the input of the gates.
        target: Rate target.
        options: Sizes, losses, steps and regularizer.
        seed: Seed.

    Returns:
        Frozen heads, frozen gates, and over steps the loss, the expected rate and the multiplier.
    """
    torch.manual_seed(seed)
    _, exits, dim = pairs.summaries.shape
    heads = ExitHeads(exits, dim, options.hidden, pairs.last.shape[1], pairs.widths)
    gates: ImageGates | JointBankGates
    if guidance == "image":
        gates = ImageGates(exits, dim, options.gate_hidden, widths=pairs.widths)
    else:
        gates = JointBankGates(exits, dim, options.gate_hidden, pairs.widths)
    inputs = pairs.whitened if options.whiten else pairs.normalised
    modules = nn.ModuleDict({"heads": heads, "gates": gates})
    for module in (heads, gates):
        pairs.prepare(module.norm)
    if options.start == "ridge":
        start_from_ridge(heads, pairs, options.whiten)
    with torch.no_grad():  # all exits are equally probable at first
        logits = torch.tensor([-math.log(exits - k) for k in range(exits)])
        gates.down.load_state_dict({"weight": gates.down.weight, "bias": logits[:, None]})
    regularizer = losses.RateRegularizer(options.regularizer, target, options.kappa, options.eta, options.lambda_)
    seen: list[dict] = []
    warm_up = options.warm_up * options.passes * (len(pairs) // min(options.batch_size, len(pairs)))

    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        ids, u, last = pairs.draw_captions(images, generator), pairs.normalised[images], pairs.last[images]
        z = heads.embed_normalised(inputs[images])
        if isinstance(gates, ImageGates):
            logits, size = gates.outputs_of_normalised(u).squeeze(-1), 0
        else:
            bank, size = draw_bank(pairs, z.detach(), images, ids, options.largest_bank, generator)
            logits = gates.decide_normalised(u, bank)
        log_pi = losses.exit_log_probabilities(logits)
        every = losses.per_exit_losses(z, last, pairs.texts[ids], ids, pairs.scale, log_pi.detach().T, options)
        taken = (log_pi.exp().T * every).sum(0).mean()
        rate = (log_pi.exp() @ relative_costs(costs, guidance, size)).mean()
        seen.append({"rate": rate.item(), "price": regularizer.mu})
        everywhere = every[:-1].mean()
        if len(seen) <= warm_up:
            return everywhere
        return taken + options.every_exit * everywhere + regularizer(rate)

    history = fit(
        modules, loss, len(pairs), options, seed, f"{guidance} gates and heads, rate {target:.2f}", options.products
    )
    if options.whiten:
        heads.fold(pairs.whitening)
    history = history.join(pd.DataFrame(seen, columns=["rate", "price"]), on="step")
    return heads, gates, history


def relative_costs(costs: ExitCosts, guidance: str, bank_size: int) -> Tensor:
    """Return the relative cost of leaving at each exit `[E]` if all exits before it are visited."""
    price = costs.image_guided() if guidance == "image" else costs.bank_guided(bank_size)
    return torch.from_numpy(price).float()


@torch.no_grad()
def draw_bank(
    pairs: Pairs, z: Tensor, images: Tensor, own: Tensor, largest: int, generator: torch.Generator
) -> tuple[Tensor, int]:
    """Draw a bank of random size for a batch, and describe the similarities of each embedding to it.

    Args:
        pairs: Training pairs.
        z: Head embeddings `[B, E-1, D]`.
        images: `[B]`.
        own: The caption of each image, index into texts `[B]`.
        largest: Largest number of texts in a bank.
        generator: Generator of the draw.

    Returns:
        `bank_features` `[B, E-1, 11]`, and the number of texts.
    """
    size = random_bank_size(min(largest, len(pairs.texts)), generator)
    return bank_features(bank_logits(pairs, z, images, own, size, generator), pairs.scale), size
