"""What an image pays when it leaves at an exit, by what a policy evaluates on the way (docs/method.md#policies)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tgems.exits.sizes import PRICE_INPUTS, bank_gate_inputs, exit_blocks, summary_dim
from tgems.profiling.closed_form import bank_product_macs, encoder_cost, gate_macs, head_macs
from tgems.provenance import read_json, write_json


@dataclass(frozen=True)
class ExitCosts:
    """MACs of the encoder and of the modules; all counts are of one image.

    Attributes:
        blocks: Exits, 1-based, ascending; the last is L.
        encoder: Stem and blocks up to each exit; the last with pooling and projection.
        head: One head.
        image_gate: One gate that sees the image alone and foresees every exit.
        confidence_gate: One gate that sees the image alone and says one number.
        bank_gate: One gate that also sees bank features, without the bank product.
        projection: The frozen projection.
        embed_dim: `D`.
        width: `d`, of a token.
        summary_dim: `S`, of a summary.
    """

    blocks: tuple[int, ...]
    encoder: tuple[int, ...]
    head: int
    image_gate: int
    confidence_gate: int
    bank_gate: int
    projection: int
    embed_dim: int
    width: int
    summary_dim: int

    @property
    def full(self) -> int:
        """MACs of the untouched encoder: what rates are relative to."""
        return self.encoder[-1]

    def at_exits(self, per_visit: int = 0, at_exit: int = 0, visited: Sequence[int] | None = None) -> np.ndarray:
        """Relative cost `[E]` float64 of leaving at each exit.

        Args:
            per_visit: MACs at every exit before the last that is visited, the one taken included.
            at_exit: MACs once, where an exit before the last is taken.
            visited: Exits (0-based) that are looked at on the way; None for all of them. At others nobody leaves.
        """
        exits = len(self.encoder)
        looked = np.zeros(exits)
        looked[list(range(exits - 1)) if visited is None else list(visited)] = 1
        visits = np.cumsum(looked)
        taken = np.arange(exits) < exits - 1
        return (np.array(self.encoder) + per_visit * visits + at_exit * taken) / self.full

    def fixed(self) -> np.ndarray:
        """Encoder and one head."""
        return self.at_exits(at_exit=self.head)

    def fixed_raw(self) -> np.ndarray:
        """Encoder and the frozen projection."""
        return self.at_exits(at_exit=self.projection)

    def image_guided(self) -> np.ndarray:
        """Encoder, every gate visited and one head."""
        return self.at_exits(per_visit=self.image_gate, at_exit=self.head)

    def learned_confidence(self) -> np.ndarray:
        """Encoder, every confidence gate visited and one head."""
        return self.at_exits(per_visit=self.confidence_gate, at_exit=self.head)

    def confidence(self, bank_size: int, visited: Sequence[int] | None = None) -> np.ndarray:
        """Encoder, and at every visited exit a head and its bank product."""
        return self.at_exits(self.head + bank_product_macs(bank_size, self.embed_dim), visited=visited)

    def bank_guided(self, bank_size: int, visited: Sequence[int] | None = None) -> np.ndarray:
        """Encoder, and at every visited exit a head, its bank product and the gate."""
        per_visit = self.head + bank_product_macs(bank_size, self.embed_dim) + self.bank_gate
        return self.at_exits(per_visit, visited=visited)


def module_costs(model_cfg: dict, modules: dict) -> ExitCosts:
    """Costs by the closed form, from configuration alone.

    Args:
        model_cfg: open_clip model configuration.
        modules: A variant of the configuration: `exits`, `summary`, and `hidden` of `heads`, `image_gates` and
            `bank_gates`.
    """
    cost = encoder_cost(model_cfg)
    width, dim = model_cfg["vision_cfg"]["width"], model_cfg["embed_dim"]
    blocks = exit_blocks(modules["exits"], model_cfg["vision_cfg"]["layers"])
    summary = summary_dim(modules["summary"], width)
    return ExitCosts(
        blocks=tuple(blocks),
        encoder=(*(cost.blocks[k - 1] for k in blocks[:-1]), cost.full),
        head=head_macs(summary, modules["heads"]["hidden"], dim),
        image_gate=gate_macs(summary, modules["image_gates"]["hidden"], len(blocks)),
        confidence_gate=gate_macs(summary, modules["image_gates"]["hidden"]),
        bank_gate=gate_macs(bank_gate_inputs(summary), modules["bank_gates"]["hidden"], 2 + PRICE_INPUTS),
        projection=cost.projection,
        embed_dim=dim,
        width=width,
        summary_dim=summary,
    )


def write_costs(path: Path, costs: ExitCosts, rest: dict) -> None:
    """Write costs as JSON, with `rest` beside them."""
    write_json(path, {"costs": asdict(costs)} | rest)


def read_costs(path: Path) -> ExitCosts:
    """Read what `write_costs` wrote."""
    costs = read_json(path)["costs"]
    return ExitCosts(**{k: tuple(v) if isinstance(v, list) else v for k, v in costs.items()})
