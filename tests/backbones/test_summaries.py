"""Summaries of small random towers of every family against loops over positions."""

import math

import pytest
import torch
from small_towers import TOWERS, small_tower
from torch import Tensor

from tgems.backbones.towers import Tower
from tgems.costs.exit_layout import grid_of, n_parts
from tgems.errors import UserError


@pytest.fixture(params=TOWERS)
def walked(request) -> tuple[Tower, int | None, list[Tensor]]:
    """A tower, its tokens before the patches, and its states before and after every block."""
    tower, prefix = small_tower(request.param), TOWERS[request.param][1]
    states = [tower.stem(torch.randn(3, 3, *tower.image_size))]
    for k in range(tower.depth):
        states.append(tower.block(k, states[-1]))
    return tower, prefix, states


def positions_of(state: Tensor, prefix: int | None) -> list[list[Tensor]]:
    """Return the values `[n, w]` at every row and column; tokens are 5 x 7 patches, row by row."""
    if prefix is None:
        return [[state[:, :, i, j] for j in range(state.shape[3])] for i in range(state.shape[2])]
    assert state.shape[1] == prefix + 5 * 7
    return [[state[:, prefix + 7 * i + j] for j in range(7)] for i in range(5)]


def cells(n: int, grid: int) -> list[range]:
    """Positions of each of `grid` cells of `n` positions."""
    return [range(i * n // grid, math.ceil((i + 1) * n / grid)) for i in range(grid)]


def by_loop(state: Tensor, prefix: int | None, grids: tuple[int, ...]) -> Tensor:
    """Compute the summary position by position."""
    rows = positions_of(state, prefix)
    everywhere = torch.stack([values for row in rows for values in row])
    parts = [state[:, 0] if prefix else everywhere.max(0).values]
    for grid in grids:
        for down in cells(len(rows), grid):
            for across in cells(len(rows[0]), grid):
                inside = [rows[i][j] for i in down for j in across]
                parts.append(sum(inside) / len(inside))
    return torch.stack(parts, 1)


@pytest.mark.parametrize("grids", [(), (0,), (1,), (2,), (3, 4), (0, 1, 2, 5)])
def test_a_summary_equals_that_of_a_loop_over_cells(walked, grids):
    tower, prefix, states = walked
    assert tower.has_class_token == bool(prefix)
    for state in states:
        expected = by_loop(state, prefix, grids)
        ours = tower.summarise(state, grids)
        assert ours.shape == (3, n_parts(grids), state.shape[1 if prefix is None else 2])
        assert torch.allclose(ours, expected, atol=1e-5)
        assert torch.equal(ours[:, 0], expected[:, 0]), "the class token or maximum is exact"


def test_cells_are_those_of_the_towers_positions(walked):
    tower, prefix, states = walked
    shapes = [tuple(tower.feature_map(state).shape[2:]) for state in states]
    assert shapes == ([(40, 40), (40, 40), (20, 20), (10, 10), (5, 5)] if prefix is None else [(5, 7)] * 3)


def test_a_grid_finer_than_the_positions_is_refused_by_name(walked):
    tower, _, states = walked
    rows, columns = tower.feature_map(states[-1]).shape[2:]
    with pytest.raises(UserError, match=f"summary.grid 6 is too fine for .*, which has {rows} x {columns} positions"):
        tower.summarise(states[-1], (2, 6))


def test_the_grid_follows_from_the_number_of_parts():
    assert [n_parts([g]) for g in range(4)] == [1, 2, 5, 10] and n_parts([]) == 1
    assert n_parts([1, 2]) == 6
    assert [grid_of(n_parts([g])) for g in range(65)] == list(range(65))
    for parts in (3, 4, 6):
        with pytest.raises(ValueError, match=f"a summary of {parts} parts does not consist of"):
            grid_of(parts)
