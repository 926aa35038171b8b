"""Decode and preprocess the images of one shard in worker processes."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tgems.data.decoding import ImageError, open_rgb
from tgems.data.tar_index import Entry, read_image


class Batch(NamedTuple):
    """A batch of samples of a shard.

    Attributes:
        indices: Indices `[B]` int64 of the samples that were decoded.
        images: Their preprocessed images `[B, 3, h, w]` float32, or None if there are none.
        broken: Index and reason of each sample that could not be decoded.
    """

    indices: Tensor
    images: Tensor | None
    broken: list[tuple[int, str]]


class ShardImages(Dataset):
    """Images of a shard by index; an image that cannot be decoded is replaced by the reason as text.

    Args:
        path: The tar.
        entries: Samples of the tar, as `index_shard` returns them.
        preprocess: Function from a PIL image to a tensor `[3, h, w]`.
    """

    def __init__(self, path: Path, entries: list[Entry], preprocess: Callable):
        self.path, self.entries, self.preprocess = path, entries, preprocess

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        entry = self.entries[index]
        if entry.problem is not None:
            return index, entry.problem
        try:
            image = open_rgb(read_image(self.path, entry))
        except ImageError as error:
            return index, f"cannot be decoded ({error})"
        return index, self.preprocess(image)


def image_batches(
    path: Path, entries: list[Entry], preprocess: Callable, batch_size: int, workers: int, pin: bool
) -> DataLoader:
    """Return a loader of `Batch` in the order of the shard; with 0 workers this process decodes the images."""
    return DataLoader(
        ShardImages(path, entries, preprocess),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
    )


def _collate(samples: list[tuple[int, Tensor | str]]) -> Batch:
    good = [(index, image) for index, image in samples if not isinstance(image, str)]
    broken = [(index, reason) for index, reason in samples if isinstance(reason, str)]
    images = torch.stack([image for _, image in good]) if good else None
    return Batch(torch.tensor([index for index, _ in good], dtype=torch.int64), images, broken)
