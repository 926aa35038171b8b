"""The result of fitting an exit policy. Pure data."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class OperatingPoint:
    """The result of fitting a policy, frozen before test images are seen.

    Attributes:
        rate_target: Mean rate that was not to be exceeded; None if nothing is calibrated.
        exit: Index of the exit that every image takes, for fixed exits.
        parameters: Numbers by name, of policies without thresholds.
        visited: Exits before the last (0-based) at which images may leave; None for all.
        thresholds: Threshold at each exit of `visited`.
    """

    rate_target: float | None = None
    exit: int | None = None
    parameters: dict[str, float] | None = None
    visited: tuple[int, ...] | None = None
    thresholds: tuple[float, ...] | None = None

    @classmethod
    def visiting(cls, rate_target: float | None, thresholds: np.ndarray) -> Self:
        """Return the point with these thresholds `[E-1]`, which are +inf at exits that are not visited."""
        visited = tuple(np.flatnonzero(np.isfinite(thresholds)).tolist())
        return cls(rate_target, None, None, visited, tuple(thresholds[list(visited)].tolist()))

    def at_exits(self, before_last: int) -> Tensor:
        """Return the threshold at every exit before the last `[E-1]` float64, +inf at exits that are not visited."""
        every = torch.full((before_last,), torch.inf, dtype=torch.float64)
        visited = range(before_last) if self.visited is None else self.visited
        every[list(visited)] = torch.tensor(self.thresholds, dtype=torch.float64)
        return every
