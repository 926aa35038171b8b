"""Rows of features, wherever they lie: in memory, or in mapped files that need not fit there."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """A tensor `[n, E, S]` in consecutive parts, read by rows as float32.

    Attributes:
        parts: Each `[n_i, E, S]`, of any float type; mapped files are read only where rows are asked for.
        exits: Exits to give, None for all.
        dim: Numbers to give of each, None for all.
    """

    parts: tuple[Tensor, ...]
    exits: Tensor | None = None
    dim: int | None = None

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(n, E, S)` of what is given."""
        _, exits, dim = self.parts[0].shape
        return len(self), exits if self.exits is None else len(self.exits), self.dim or dim

    def columns(self, exits: Sequence[int], dim: int) -> "Rows":
        """The same rows with fewer exits (0-based) and the first `dim` numbers of each."""
        _, have, size = self.parts[0].shape
        chosen = None if list(exits) == list(range(have)) else torch.tensor(exits)
        return replace(self, exits=chosen, dim=None if dim == size else dim)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Rows by index `[B]` int64, or a slice -> `[B, E, S]` float32."""
        if isinstance(rows, slice):
            rows = torch.arange(len(self))[rows]
        if len(self.parts) == 1:
            return self._given(self.parts[0][rows])
        ends = torch.tensor([len(part) for part in self.parts]).cumsum(0)
        owner = torch.searchsorted(ends, rows, right=True)
        out = torch.empty(len(rows), *self.shape[1:])
        for i in owner.unique().tolist():
            mine = owner == i
            out[mine] = self._given(self.parts[i][rows[mine] - (ends[i - 1] if i else 0)])
        return out

    def _given(self, rows: Tensor) -> Tensor:
        if self.exits is not None:
            rows = rows[:, self.exits]
        return rows[..., : self.dim].float()

    def split(self, size: int) -> Iterator[Tensor]:
        """Rows in order, `size` at a time."""
        return (self[start : start + size] for start in range(0, len(self), size))


@dataclass(frozen=True)
class MappedRows:
    """A function of rows, computed where rows are asked for: what `function` makes of all of them need not fit.

    Attributes:
        function: Indices `[B]` -> `[B, ...]`.
        shape: Of the whole.
    """

    function: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Rows by index `[B]` int64."""
        return self.function(rows)


@torch.no_grad()
def by_rows(function: Callable[[Tensor], Tensor], rows: Rows | Tensor, size: int = 4096) -> Tensor:
    """Apply a function of independent rows to all of them, `size` at a time."""
    return torch.cat([function(part) for part in rows.split(size)])
