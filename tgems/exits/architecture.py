"""Closed pydantic models of the kind and sizes of exit modules, as in their config.json. Does not import torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tgems.untrusted import Closed, Size

Widths = tuple[Size, ...] | None
Rates = tuple[Annotated[float, Field(gt=0, le=1e3)], ...]


class PerExit(Closed):
    """Sizes that modules of all kinds have.

    Attributes:
        n_exits: Exits before the last.
        summary_dim: `S`.
        widths: Unpadded width of each half of a summary, per exit; None if all exits are equally wide.
    """

    n_exits: Size
    summary_dim: Size
    widths: Widths

    @model_validator(mode="after")
    def _widths_fit(self) -> Self:
        if self.widths is not None and (len(self.widths) != self.n_exits or self.summary_dim % max(self.widths)):
            sizes = f"{self.n_exits} exits and summary_dim {self.summary_dim}"
            raise ValueError(f"modules: widths {list(self.widths)} do not fit {sizes}")
        return self


class HeadsArchitecture(PerExit):
    """Sizes of `tgems.exits.modules.ExitHeads`."""

    kind: Literal["heads"]
    hidden: Annotated[int, Field(ge=0, le=2**20)]
    embed_dim: Size


class GatesArchitecture(PerExit):
    """Sizes of `ImageGates` (kinds `confidence`, `router` and `joint_image`), `BankGates` and `JointBankGates`."""

    kind: Literal["confidence", "router", "joint_image", "bank", "joint_bank"]
    hidden: Size


class VarianceGatesArchitecture(PerExit):
    """Sizes of `tgems.exits.bank_modules.ConfidenceAndVarianceGates`."""

    kind: Literal["variance"]
    hidden: Size
    part_width: Size

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.summary_dim % self.part_width or self.summary_dim == self.part_width:
            raise ValueError(f"modules: part_width {self.part_width} does not fit summary_dim {self.summary_dim}")
        return self


class LookaheadArchitecture(PerExit):
    """Sizes of `tgems.exits.modules.LookaheadGates`: kind `lookahead` before training for a rate, `image` after it."""

    kind: Literal["lookahead", "image"]
    hidden: Size
    rates: Rates
    temperature: Annotated[float, Field(gt=0)]


Architecture = Annotated[
    HeadsArchitecture | GatesArchitecture | VarianceGatesArchitecture | LookaheadArchitecture,
    Field(discriminator="kind"),
]
