"""Sizes of exit modules that costs depend on. Imports nothing heavy, so that a dry run can ask."""

from tgems.errors import UserError

BANK_FEATURES = 11
PRICE_INPUTS = 2
SUMMARIES = {"cls": 1, "cls_and_patches": 2}


def bank_gate_inputs(summary_dim: int) -> int:
    """Inputs of a bank gate: the summary and the bank features."""
    return summary_dim + BANK_FEATURES


def summary_dim(summary: str, width: int) -> int:
    """Numbers of a summary: the CLS token, or CLS token and mean of the patch tokens."""
    return SUMMARIES[summary] * width


def exit_blocks(placement: str | list[int], depth: int) -> list[int]:
    """Blocks after which an image may leave, 1-based and ascending; the last block is always one.

    Args:
        placement: `all`, `every_other` (counted from the last), `last_half`, or block numbers.
        depth: L.

    Raises:
        UserError: A block is not in 1..L, or no block before the last is named.
    """
    named = {
        "all": range(1, depth + 1),
        "every_other": range(depth % 2 or 2, depth + 1, 2),
        "last_half": range(depth // 2, depth + 1),
    }
    blocks = sorted({*named[placement]} if isinstance(placement, str) else {*placement, depth})
    if blocks[0] < 1 or blocks[-1] > depth or len(blocks) < 2:
        raise UserError(
            f"config: exits {placement!r}: expected blocks from 1 to {depth - 1}, before the last of {depth}"
        )
    return blocks
