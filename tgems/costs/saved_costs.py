"""The costs of exits as JSON: macs.json of a run, and a part of the config.json of a T-GEM. Checked when read."""

from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tgems.costs.exit_costs import GATES, ExitCosts
from tgems.costs.exit_layout import grid_of
from tgems.outputs import write_json
from tgems.provenance import RUN_AGAIN
from tgems.untrusted import Closed, Size, read_json_as

Macs = Annotated[int, Field(ge=0, le=2**60)]
PerBlock = tuple[Macs, ...]


class SavedCosts(Closed):
    """An `ExitCosts` in JSON; the numbers of its exits must agree."""

    blocks: tuple[Size, ...]
    encoder: Annotated[PerBlock, Field(min_length=2)]
    head: PerBlock
    gates: dict[Literal["image", "bank", "confidence", "variance", "router"], PerBlock]
    projection: Macs | None
    embed_dim: Size
    widths: tuple[Size, ...]
    summary_dim: Size
    query_bank: Macs

    @model_validator(mode="after")
    def _one_for_each_exit(self) -> Self:
        exits = len(self.blocks)
        if any(a >= b for a, b in pairwise(self.blocks)):
            raise ValueError(f"costs.blocks {list(self.blocks)} do not ascend")
        if len(self.encoder) != exits:
            raise ValueError(f"costs.encoder has {len(self.encoder)} numbers for {exits} exits")
        per_exit = {"head": self.head, "widths": self.widths}
        per_exit |= {f"gates.{kind}": macs for kind, macs in self.gates.items()}
        for name, numbers in per_exit.items():
            if len(numbers) != exits - 1:
                raise ValueError(f"costs.{name} has {len(numbers)} numbers for {exits - 1} exits before the last")
        if missing := sorted(set(GATES) - set(self.gates)):
            raise ValueError(f"costs.gates lacks {missing[0]!r}")
        if self.summary_dim % max(self.widths):
            raise ValueError(f"costs.summary_dim {self.summary_dim} is not a multiple of the largest of costs.widths")
        grid_of(self.summary_dim // max(self.widths))
        if not self.encoder[-1]:
            raise ValueError("costs.encoder: the full encoder costs nothing")
        return self

    def costs(self) -> ExitCosts:
        """Return the costs."""
        return ExitCosts(**self.model_dump())


class Profile(Closed):
    """The content of `macs.json`: costs, and the numbers per exit that the table of costs shows beside them.

    Attributes:
        costs: Costs of the exits.
        normalisation: MACs of normalisation layers, which `costs` leave out.
        closed_form: MACs of the encoder by the closed form; None if there is none.
        parameters: Number of parameters up to each exit.
    """

    model_config = Closed.model_config | {"extra": "ignore"}
    costs: SavedCosts
    normalisation: PerBlock = ()
    closed_form: PerBlock | None = None
    parameters: PerBlock = ()


def write_costs(path: Path, costs: ExitCosts, rest: dict) -> None:
    """Write costs as JSON, with the keys of `rest` beside them."""
    write_json(path, {"costs": asdict(costs)} | rest)


def read_profile(path: Path) -> Profile:
    """Read a file of `write_costs`.

    Raises:
        UserError: The file is missing or damaged, or an earlier version of tgems wrote it.
    """
    return read_json_as(Profile, path, RUN_AGAIN)


def read_costs(path: Path) -> ExitCosts:
    """Read the costs in a file of `write_costs`; see `read_profile`."""
    return read_profile(path).costs.costs()
