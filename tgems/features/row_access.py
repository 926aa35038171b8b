"""Access to rows of features, in memory or in mapped files that need not fit there."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """A tensor `[n, E, S]` in consecutive files' parts, read by rows as float32.

    Attributes:
        files: Each `[n_i, E, S]`, of any float type; mapped files are read only where rows are asked for.
        exits: Exits to give, None for all.
        have: Number of equal parts that the numbers of an exit consist of.
        parts: Which of these to give, None for all.
        width: Numbers of each part to give, None for all.
    """

    files: tuple[Tensor, ...]
    exits: Tensor | None = None
    have: int = 1
    parts: tuple[int, ...] | None = None
    width: int | None = None

    def __len__(self) -> int:
        return sum(len(part) for part in self.files)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(n, E, S)` of what is given."""
        _, exits, dim = self.files[0].shape
        size = (len(self.parts) if self.parts else self.have) * (self.width or dim // self.have)
        return len(self), exits if self.exits is None else len(self.exits), size

    def columns(self, exits: Sequence[int], have: int, parts: Sequence[int], width: int) -> "Rows":
        """Return the same rows with fewer exits and fewer numbers of each.

        Args:
            exits: Exits to give (0-based), counted among those that these rows give.
            have: Number of equal parts that the numbers of an exit, as these rows give them, consist of.
            parts: Which of these parts to give (0-based).
            width: Numbers of each part to give.

        Raises:
            ValueError: The parts of rows whose parts were chosen before are counted differently.
        """
        _, every, dim = self.shape
        chosen = self.exits if list(exits) == list(range(every)) else torch.tensor(exits)
        if self.exits is not None and chosen is not self.exits:
            chosen = self.exits[chosen]
        if (list(parts), width) == (list(range(have)), dim // have):
            return replace(self, exits=chosen)
        if self.parts is not None:
            if have != len(self.parts):
                raise ValueError(f"rows of {len(self.parts)} parts cannot be read as {have} parts")
            have, parts = self.have, [self.parts[part] for part in parts]
        return replace(self, exits=chosen, have=have, parts=tuple(parts), width=width)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Read rows by index `[B]` int64, or by a slice: `[B, E, S]` float32."""
        if isinstance(rows, slice):
            rows = torch.arange(len(self))[rows]
        if len(self.files) == 1:
            return self._given(self.files[0][rows])
        ends = torch.tensor([len(part) for part in self.files]).cumsum(0)
        owner = torch.searchsorted(ends, rows, right=True)
        out = torch.empty(len(rows), *self.shape[1:])
        for i in owner.unique().tolist():
            mine = owner == i
            out[mine] = self._given(self.files[i][rows[mine] - (ends[i - 1] if i else 0)])
        return out

    def _given(self, rows: Tensor) -> Tensor:
        if self.exits is not None:
            rows = rows[:, self.exits]
        if self.width is not None and self.parts is not None:
            rows = rows.unflatten(-1, (self.have, -1))[:, :, list(self.parts), : self.width].flatten(2)
        return rows.float()

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield rows in order, `size` at a time."""
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
        """Compute rows by index `[B]` int64."""
        return self.function(rows)


@torch.no_grad()
def map_rows(function: Callable[[Tensor], Tensor], rows: Rows | Tensor, size: int = 4096) -> Tensor:
    """Apply a function of independent rows to all of them, `size` at a time."""
    return torch.cat([function(part) for part in rows.split(size)])
