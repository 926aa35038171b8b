"""Decode the images of one shard, in order, in worker processes; an image that cannot be decoded gives a reason."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tgems.data.decoding import UNREADABLE, open_rgb
from tgems.data.tar_index import Entry, read_image
from tgems.errors import reason


class Batch(NamedTuple):
    """Some samples of a shard.

    Attributes:
        places: Which samples these are `[B]` int64.
        images: Preprocessed `[B, 3, h, w]` float32.
        broken: Place and reason of those that could not be decoded.
    """

    places: Tensor
    images: Tensor | None
    broken: list[tuple[int, str]]


class ShardImages(Dataset):
    """Images of a shard by place.

    Args:
        path: The tar.
        entries: Its index.
        preprocess: PIL image -> `[3, h, w]`.
    """

    def __init__(self, path: Path, entries: list[Entry], preprocess: Callable):
        self.path, self.entries, self.preprocess = path, entries, preprocess

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, place: int) -> tuple[int, Tensor | str]:
        entry = self.entries[place]
        if entry.problem is not None:
            return place, entry.problem
        try:
            image = open_rgb(read_image(self.path, entry))
        except UNREADABLE as error:
            return place, f"cannot be decoded ({reason(error)})"
        return place, self.preprocess(image)


def image_batches(
    path: Path, entries: list[Entry], preprocess: Callable, batch_size: int, workers: int, pin: bool
) -> DataLoader:
    """Iterate over `Batch` in the order of the shard, whatever the number of workers (0: this process)."""
    return DataLoader(
        ShardImages(path, entries, preprocess),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
    )


def _collate(samples: list[tuple[int, Tensor | str]]) -> Batch:
    good = [(place, image) for place, image in samples if not isinstance(image, str)]
    broken = [(place, reason) for place, reason in samples if isinstance(reason, str)]
    images = torch.stack([image for _, image in good]) if good else None
    return Batch(torch.tensor([place for place, _ in good], dtype=torch.int64), images, broken)
