"""Cost of leaving at an exit, by what a policy evaluates on the way (docs/method.md#policies)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tgems.architectures.catalog import family
from tgems.costs.closed_form import (
    PRICE_INPUTS,
    EncoderCost,
    bank_gate_inputs,
    bank_product_macs,
    encoder_cost,
    gate_macs,
    head_macs,
    variance_gate_macs,
)
from tgems.costs.exit_layout import exit_blocks, grid_of, summary_dim
from tgems.errors import UserError

GATES = ("image", "bank", "confidence", "variance", "router")
"""Kinds of trained gates, which are also the names of the folders that they are saved in."""


@dataclass(frozen=True)
class ExitCosts:
    """MACs of the encoder and of the exit modules for one image.

    Tuples have one entry per exit before the last, unless said otherwise.

    Attributes:
        blocks: Blocks after which an image may leave, 1-based and ascending; the last is L.
        encoder: MACs of the stem and the blocks up to each exit; at the last exit, of the whole encoder.
        head: MACs of one head.
        gates: MACs of one gate of each kind (`GATES`), without the head and the bank product that it may need.
        projection: MACs of the frozen pooling and projection; None if these accept only the last block's tokens.
        embed_dim: Dimension `D` of the embeddings.
        widths: Number of channels `d` of a token or position.
        summary_dim: Length `S` of a summary; summaries of narrower exits are padded to it.
        query_bank: MACs of query-bank normalisation, which every image pays, whichever exit it takes.
    """

    blocks: tuple[int, ...]
    encoder: tuple[int, ...]
    head: tuple[int, ...]
    gates: dict[str, tuple[int, ...]]
    projection: int | None
    embed_dim: int
    widths: tuple[int, ...]
    summary_dim: int
    query_bank: int = 0

    @property
    def width(self) -> int:
        """Length of one part of a summary: the `d` of the widest exit."""
        return max(self.widths)

    @property
    def grid(self) -> int:
        """Size g of the g x g grid of means in a summary; 0 without a grid."""
        return grid_of(self.summary_dim // self.width)

    @property
    def full(self) -> int:
        """MACs of the full encoder, to which rates are relative; with token merging, of the one that merges."""
        return self.encoder[-1]

    def at_exits(
        self,
        per_visit: ArrayLike = 0,
        at_exit: ArrayLike = 0,
        per_pass: ArrayLike = 0,
        visited: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Return the relative cost `[E]` float64 of leaving at each exit.

        Args:
            per_visit: MACs at every visited exit up to and including the one taken, except the last; a scalar, or one
                value per exit.
            at_exit: MACs at the exit taken, unless it is the last; a scalar, or one value per exit.
            per_pass: MACs at every visited exit before the one taken; a scalar, or one value per exit.
            visited: Exits (0-based) before the last that are visited; None for all. No image leaves at the others.
        """
        exits = len(self.encoder)
        visits, passed, taken = np.zeros(exits), np.zeros(exits), np.zeros(exits)
        where = list(range(exits - 1)) if visited is None else list(visited)
        visits[where] = np.broadcast_to(per_visit, exits - 1)[where]
        passed[np.array(where, dtype=int) + 1] = np.broadcast_to(per_pass, exits - 1)[where]
        taken[:-1] = at_exit
        return (np.array(self.encoder) + np.cumsum(visits + passed) + taken + self.query_bank) / self.full

    def fixed(self) -> np.ndarray:
        """Return the relative cost of the encoder and one head, per exit."""
        return self.at_exits(at_exit=self.head)

    def image_guided(self) -> np.ndarray:
        """Return the relative cost of the encoder, the image-guided gates on the way, and one head, per exit."""
        return self.at_exits(per_visit=self.gates["image"], at_exit=self.head)

    def bank_guided(self, bank_size: int) -> np.ndarray:
        """Return the relative cost of the encoder, heads and bank-guided gates on the way, and bank products, per exit.

        The bank product at the exit taken is the cost of the answer (`answer`) and not included.
        """
        return self.at_exits(np.add(self.head, self.gates["bank"]), per_pass=self.answer(bank_size))

    def answer(self, bank_size: int) -> int:
        """Return the MACs of comparing one embedding with the texts of a bank."""
        return bank_product_macs(bank_size, self.embed_dim)


def exit_costs(encoder: EncoderCost, modules: dict, accepts_raw: bool) -> ExitCosts:
    """Compute the costs of a variant's exits on an encoder; those of exit modules follow from a closed form.

    Args:
        encoder: Costs of the encoder, traced or from the closed form.
        modules: A variant of the configuration, of which `exits`, `summary`, `training.scheme` and the `hidden` of
            `heads`, `image_gates` and `bank_gates` are read; the optional key `kept` holds the backbone's own `exits`.
        accepts_raw: Whether the frozen pooling and projection accept the tokens of every block.
    """
    kept = exit_blocks(modules.get("kept", "all"), range(1, len(encoder.blocks) + 1))
    blocks = exit_blocks(modules["exits"], kept)
    widths = tuple(encoder.widths[k - 1] for k in blocks[:-1])
    sizes = [summary_dim(modules["summary"], width) for width in widths]
    hidden = {name: modules[name]["hidden"] for name in ("heads", "image_gates", "bank_gates")}
    joint = modules["training"]["scheme"] == "joint"
    image_outputs, bank_outputs = (1, 1) if joint else (len(blocks), 2 + PRICE_INPUTS)
    return ExitCosts(
        blocks=tuple(blocks),
        encoder=(*(encoder.blocks[k - 1] for k in blocks[:-1]), encoder.full),
        head=tuple(head_macs(s, hidden["heads"], encoder.embed_dim) for s in sizes),
        gates={
            "image": tuple(gate_macs(s, hidden["image_gates"], image_outputs) for s in sizes),
            "bank": tuple(gate_macs(bank_gate_inputs(s), hidden["bank_gates"], bank_outputs) for s in sizes),
            "confidence": tuple(gate_macs(s, hidden["image_gates"]) for s in sizes),
            "variance": tuple(variance_gate_macs(s, hidden["bank_gates"]) for s in sizes),
            "router": tuple(gate_macs(s, hidden["image_gates"]) for s in sizes),
        },
        projection=encoder.finish if accepts_raw else None,
        embed_dim=encoder.embed_dim,
        widths=widths,
        summary_dim=max(sizes),
    )


def module_costs(model_cfg: dict, modules: dict, token_merging: int = 0) -> ExitCosts | None:
    """Compute the costs of a variant's exits from the configuration; None if the encoder has no closed form.

    Args:
        model_cfg: open_clip model configuration.
        modules: See `exit_costs`.
        token_merging: See `tgems.costs.closed_form.encoder_cost`.
    """
    encoder = encoder_cost(model_cfg, token_merging)
    return None if encoder is None else exit_costs(encoder, modules, family(model_cfg) != "resnet")


def check_targets(costs: ExitCosts, rate_targets: Sequence[float], owner: str) -> None:
    """Check that no rate target is below the cheapest exit, where it could not be met.

    Args:
        costs: Costs of the exits.
        rate_targets: Mean relative costs.
        owner: Name of the backbone and variant, for the message.

    Raises:
        UserError: A target is too low; the message names the first one.
    """
    cheapest = costs.image_guided()[0]
    for target in rate_targets:
        if target < cheapest:
            raise UserError(
                f"config: rate target {target} is below the cheapest exit of {owner}: with its gate and head it costs "
                f"{cheapest:.3f} of the encoder; raise the target"
            )
