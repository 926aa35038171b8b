"""Arithmetic of summaries, which hold the whole image and g x g grids of means. Imports nothing heavy."""

import math
from collections.abc import Sequence

from tgems.errors import UserError


def n_parts(grids: Sequence[int]) -> int:
    """Number of parts of a summary, each as wide as a token: the whole image, and the cells of each g x g grid."""
    return 1 + sum(grid**2 for grid in grids)


def grid_of(parts: int) -> int:
    """Return the grid g of a summary of 1 + g^2 parts.

    Raises:
        ValueError: No grid has that many parts.
    """
    grid = math.isqrt(parts - 1)
    if parts != n_parts([grid]):
        raise ValueError(f"a summary of {parts} parts does not consist of the whole image and a g x g grid of means")
    return grid


def require_grid(grid: int, positions: Sequence[int], owner: str) -> None:
    """Check that a grid of means fits the positions of a feature map.

    Args:
        grid: Number of rows and columns of the grid.
        positions: Rows and columns of positions.
        owner: Whose positions these are, for the message.

    Raises:
        UserError: The grid has more rows or columns than there are positions.
    """
    if grid > min(positions):
        rows, columns = positions
        raise UserError(
            f"config: summary.grid {grid} is too fine for {owner}, which has {rows} x {columns} positions at an exit; "
            f"use {min(positions)} or less"
        )
