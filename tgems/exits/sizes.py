"""Sizes of exit modules that costs depend on. Imports nothing heavy, so that a dry run can ask."""

from collections.abc import Sequence

from tgems.backbones.summary_grid import n_parts
from tgems.errors import UserError

BANK_FEATURES = 11
PRICE_INPUTS = 2


def bank_gate_inputs(summary_dim: int) -> int:
    """Inputs of a bank gate: the summary and the bank features."""
    return summary_dim + BANK_FEATURES


def summary_dim(summary: dict, width: int) -> int:
    """Length of the summary vector: the whole image and a grid of means, each `width` numbers."""
    return n_parts([summary["grid"]]) * width


def exit_blocks(placement: str | list[int], available: Sequence[int]) -> list[int]:
    """Blocks after which an image may leave, 1-based and ascending; the last available one always is.

    Args:
        placement: `all`, `every_other` (counted from the last), `last_half`, or block numbers.
        available: Blocks to choose from, ascending; the last is L.

    Raises:
        UserError: A block is not available, or no block before the last is named.
    """
    n = len(available)
    named = {
        "all": available,
        "every_other": available[(n - 1) % 2 :: 2],
        "last_half": available[max(n // 2 - 1, 0) :],
    }
    blocks = sorted({*named[placement]} if isinstance(placement, str) else {*placement, available[-1]})
    if not set(blocks) <= set(available) or len(blocks) < 2:
        *before, last = available
        raise UserError(
            f"config: exits {placement!r}: expected some of blocks {_listed(before)}, before the last, {last}"
        )
    return blocks


def _listed(blocks: Sequence[int]) -> str:
    """Numbers in words: a range where there are no gaps."""
    whole = len(blocks) > 1 and list(blocks) == list(range(blocks[0], blocks[-1] + 1))
    return f"{blocks[0]} to {blocks[-1]}" if whole else ", ".join(map(str, blocks))
