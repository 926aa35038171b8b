"""Summarise tokens by one matrix product if the summary is linear in the tokens."""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from tgems.backbones.states import State
from tgems.backbones.towers import TokenTower, Tower
from tgems.features.encode import summary_rows

_MATRICES: WeakKeyDictionary[Tower, dict[tuple, Tensor | None]] = WeakKeyDictionary()


def pooled_rows(tower: Tower, state: State, width: int, grid: int) -> Tensor:
    """Summarise a state as `tgems.features.encode.summary_rows` does, except for rounding: `[n, P width]`."""
    if isinstance(state, Tensor) and state.dtype == torch.float32 and state.shape[-1] == width:
        matrix = _matrix(tower, state, grid)
        if matrix is not None:
            return torch.bmm(matrix.expand(len(state), -1, -1), state).flatten(1)
    return summary_rows(tower, state, width, [grid])


def _matrix(tower: Tower, state: Tensor, grid: int) -> Tensor | None:
    """Return the matrix `[P, N]` that multiplies tokens `[N, w]` to give their summary; None if there is none.

    It is the summary of the identity matrix. Whether summaries are linear is checked on random tokens, so that towers
    need not declare it.
    """
    if not isinstance(tower, TokenTower):
        return None
    known = _MATRICES.setdefault(tower, {})
    key = grid, state.shape[1], state.device
    if key not in known:
        n = state.shape[1]
        matrix = tower.summarise(torch.eye(n, device=state.device)[None], [grid])[0]
        tried = torch.randn(1, n, n, generator=torch.Generator().manual_seed(0)).to(state.device)
        linear = torch.allclose(matrix @ tried, tower.summarise(tried, [grid]), atol=1e-4)
        known[key] = matrix.contiguous() if linear else None
    return known[key]
