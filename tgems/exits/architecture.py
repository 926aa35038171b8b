"""What the configuration of a trained exit module may say: a kind and its sizes. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from tgems.untrusted import Closed, Size

Widths = tuple[Size, ...] | None
Rates = tuple[Annotated[float, Field(gt=0, le=1e3)], ...]


class PerExit(Closed):
    """Sizes that all modules have.

    Attributes:
        n_exits: Exits before the last.
        summary_dim: `S`.
        widths: True width of either part of a summary, per exit; None where all are equal.
    """

    n_exits: Size
    summary_dim: Size
    widths: Widths


class HeadsArchitecture(PerExit):
    """Of `tgems.exits.modules.ExitHeads`."""

    kind: Literal["heads"]
    hidden: Annotated[int, Field(ge=0, le=2**20)]
    embed_dim: Size


class GatesArchitecture(PerExit):
    """Of `tgems.exits.modules.ImageGates` (`confidence`) and `BankGates` (`bank`)."""

    kind: Literal["confidence", "bank"]
    hidden: Size


class LookaheadArchitecture(PerExit):
    """Of `tgems.exits.modules.LookaheadGates`: `lookahead` before it is trained for a rate, `image` after."""

    kind: Literal["lookahead", "image"]
    hidden: Size
    rates: Rates
    temperature: Annotated[float, Field(gt=0)]


Architecture = Annotated[HeadsArchitecture | GatesArchitecture | LookaheadArchitecture, Field(discriminator="kind")]
