"""Access features by rows, in memory or in memory-mapped files that are larger than memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """A tensor `[n, E, S]` that is stored in consecutive files and read by rows as float32.

    Attributes:
        files: Tensors `[n_i, E, S]` of any float type. Memory-mapped files are read only where rows are requested.
        exits: Exits to select; None for all.
        n_parts: Number of equal parts that the S values of an exit consist of.
        parts: Parts to select; None for all.
        width: Number of leading values to select from each part; None for all.
    """

    files: tuple[Tensor, ...]
    exits: Tensor | None = None
    n_parts: int = 1
    parts: tuple[int, ...] | None = None
    width: int | None = None

    def __len__(self) -> int:
        return sum(len(part) for part in self.files)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape `(n, E, S)` after selection."""
        _, exits, dim = self.files[0].shape
        size = (len(self.parts) if self.parts else self.n_parts) * (self.width or dim // self.n_parts)
        return len(self), exits if self.exits is None else len(self.exits), size

    def columns(self, exits: Sequence[int], n_parts: int, parts: Sequence[int], width: int) -> "Rows":
        """Return the same rows with a selection of exits, and of the values at each.

        Args:
            exits: Exits to select, as 0-based indices into the exits of these rows.
            n_parts: Number of equal parts that the values of these rows at an exit consist of.
            parts: Parts to select (0-based).
            width: Number of leading values to select from each part.

        Raises:
            ValueError: Parts were selected before, and `n_parts` is not their number.
        """
        _, every, dim = self.shape
        chosen = self.exits if list(exits) == list(range(every)) else torch.tensor(exits)
        if self.exits is not None and chosen is not self.exits:
            chosen = self.exits[chosen]
        if (list(parts), width) == (list(range(n_parts)), dim // n_parts):
            return replace(self, exits=chosen)
        if self.parts is not None:
            if n_parts != len(self.parts):
                raise ValueError(f"rows of {len(self.parts)} parts cannot be read as {n_parts} parts")
            n_parts, parts = self.n_parts, [self.parts[part] for part in parts]
        return replace(self, exits=chosen, n_parts=n_parts, parts=tuple(parts), width=width)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Read rows by index `[B]` int64, or by a slice: `[B, E, S]` float32."""
        if isinstance(rows, slice):
            rows = torch.arange(len(self))[rows]
        if len(self.files) == 1:
            return self._select(self.files[0][rows])
        ends = torch.tensor([len(part) for part in self.files]).cumsum(0)
        owner = torch.searchsorted(ends, rows, right=True)
        out = torch.empty(len(rows), *self.shape[1:])
        for i in owner.unique().tolist():
            here = owner == i
            out[here] = self._select(self.files[i][rows[here] - (ends[i - 1] if i else 0)])
        return out

    def _select(self, rows: Tensor) -> Tensor:
        if self.exits is not None:
            rows = rows[:, self.exits]
        if self.width is not None and self.parts is not None:
            rows = rows.unflatten(-1, (self.n_parts, -1))[:, :, list(self.parts), : self.width].flatten(2)
        return rows.float()

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield rows in order, `size` at a time."""
        return (self[start : start + size] for start in range(0, len(self), size))


@dataclass(frozen=True)
class MappedRows:
    """The values of a function of rows, computed when rows are requested, so that they need not all fit in memory.

    Attributes:
        function: Function from row indices `[B]` to values `[B, ...]`.
        shape: Shape of the values of all rows.
    """

    function: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Compute rows by index `[B]` int64."""
        return self.function(rows)


@torch.no_grad()
def map_rows(function: Callable[[Tensor], Tensor], rows: Rows | Tensor, size: int = 4096) -> Tensor:
    """Apply a function that treats rows independently to all rows, `size` at a time."""
    return torch.cat([function(part) for part in rows.split(size)])
