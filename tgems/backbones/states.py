"""The state of a tower between two blocks: one tensor, or tokens some of which were merged."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MergedTokens:
    """Tokens of images, some of which stand for several patches (docs/method.md#token-merging).

    Like a tensor whose first dimension is the images, it can be indexed by images, split and concatenated.

    Attributes:
        tokens: Tokens `[n, N, w]`, class and register tokens first.
        owners: Number in 0..N-1 of the token that stands for each of the image's P patches `[n, P]` int64. The size of
            a token is how often its number occurs.
    """

    tokens: Tensor
    owners: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Tensor | slice) -> "MergedTokens":
        return MergedTokens(self.tokens[rows], self.owners[rows])

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self.tokens.device

    def tensor_split(self, parts: int) -> "list[MergedTokens]":
        """Split the images as `torch.Tensor.tensor_split` does."""
        pairs = zip(self.tokens.tensor_split(parts), self.owners.tensor_split(parts), strict=True)
        return [MergedTokens(*pair) for pair in pairs]


State = Tensor | MergedTokens
"""The state of a tower, images first."""


def tensors_of(state: State) -> tuple[Tensor, ...]:
    """Return the tensors of a state, the largest one first."""
    return (state.tokens, state.owners) if isinstance(state, MergedTokens) else (state,)


def select(state: State, rows: Tensor) -> State:
    """Return the states of some images, by number `[m]` int64; several times faster than indexing."""
    return state_of([tensor.index_select(0, rows) for tensor in tensors_of(state)])


def state_of(tensors: Sequence[Tensor]) -> State:
    """Return the state that consists of these tensors; the inverse of `tensors_of`."""
    return tensors[0] if len(tensors) == 1 else MergedTokens(*tensors)


def concatenate(states: Sequence[State]) -> State:
    """Concatenate the images of states of one tower after the same block."""
    columns = zip(*map(tensors_of, states), strict=True)
    return state_of([torch.cat(column) for column in columns])
