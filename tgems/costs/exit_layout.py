"""Positions of exits, and lengths of the summaries there. Imports neither torch nor open_clip, for dry runs."""

import math
from collections.abc import Sequence

from tgems.errors import UserError


def n_parts(grids: Sequence[int]) -> int:
    """Return the number of parts of a summary: the whole image, and the cells of each g x g grid."""
    return 1 + sum(grid**2 for grid in grids)


def grid_of(parts: int) -> int:
    """Return the grid size g of a summary with 1 + g^2 parts.

    Raises:
        ValueError: No grid gives that many parts.
    """
    grid = math.isqrt(parts - 1)
    if parts != n_parts([grid]):
        raise ValueError(f"a summary of {parts} parts does not consist of the whole image and a g x g grid of means")
    return grid


def require_grid(grid: int, positions: Sequence[int], owner: str) -> None:
    """Check that a grid of means fits the positions of a feature map.

    Args:
        grid: Number of rows and columns of the grid.
        positions: Number of rows and columns of positions.
        owner: Name of the backbone or of its tower, for the message.

    Raises:
        UserError: The grid has more rows or columns than there are positions.
    """
    if grid > min(positions):
        rows, columns = positions
        raise UserError(
            f"config: summary.grid {grid} is too fine for {owner}, which has {rows} x {columns} positions at an exit; "
            f"use {min(positions)} or less"
        )


def summary_dim(summary: dict, width: int) -> int:
    """Return the length of a summary: the whole image and a grid of means, `width` numbers each."""
    return n_parts([summary["grid"]]) * width


def exit_blocks(placement: str | list[int], available: Sequence[int]) -> list[int]:
    """Return the blocks after which an image may leave, 1-based and ascending; the last available block is always one.

    Args:
        placement: `all`, `every_other` (counted from the last), `last_half`, or block numbers.
        available: Blocks to choose from, in ascending order; the last is L.

    Raises:
        UserError: A block is not available, or no block before the last is chosen.
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
            f"config: exits {placement!r}: expected at least one of blocks {_listed(before)}; the last, {last}, "
            "is added"
        )
    return blocks


def _listed(blocks: Sequence[int]) -> str:
    """Return block numbers as text, as a range if there are no gaps."""
    whole = len(blocks) > 1 and list(blocks) == list(range(blocks[0], blocks[-1] + 1))
    return f"{blocks[0]} to {blocks[-1]}" if whole else ", ".join(map(str, blocks))
