"""Find images in files, folders and tars, and decode them; an image that cannot be read gives a reason."""

import glob
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from tgems.data.decoding import UNREADABLE, open_rgb
from tgems.data.tar_index import IMAGE_SUFFIXES, Entry, index_shard, read_image
from tgems.errors import UserError, reading, reason

Named = tuple[str, Entry | None]
"""Name of an image, and its place in a tar or None."""


class ImageFiles(Dataset):
    """Images by place: place and preprocessed image `[3, h, w]`, or place and the reason why it cannot be read."""

    def __init__(self, names: Sequence[Named], preprocess: Callable):
        self.names, self.preprocess = names, preprocess

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, place: int) -> tuple[int, Tensor | str]:
        name, entry = self.names[place]
        if entry is not None and entry.problem:
            return place, entry.problem
        try:
            data = Path(name).read_bytes() if entry is None else read_image(Path(name.partition("::")[0]), entry)
            image = open_rgb(data)
        except UNREADABLE as error:
            return place, f"cannot be read ({reason(error)})"
        return place, self.preprocess(image)


def find_images(words: Sequence[str]) -> list[Named]:
    """Find the images that files, folders, globs and tars name, in order, each once.

    Raises:
        UserError: A word names nothing, or a file of unknown kind.
    """
    found: dict[str, Entry | None] = {}
    for word in words:
        with reading(word, "check the name, and that you may read it"):
            paths = [Path(word)] if Path(word).exists() else [Path(p) for p in sorted(glob.glob(word, recursive=True))]
        if not paths:
            raise UserError(f"{word}: there is no such file, folder or match")
        for path in paths:
            found |= dict(_images_of(path))
    if not found:
        raise UserError(f"{' '.join(words)}: no image ({', '.join(IMAGE_SUFFIXES)}) and no tar with images")
    return list(found.items())


def _images_of(path: Path) -> Iterator[Named]:
    suffix = path.suffix.lower().removeprefix(".")
    if path.is_dir():
        for inner in sorted(path.rglob("*")):
            if inner.is_file() and inner.suffix.lower().removeprefix(".") in (*IMAGE_SUFFIXES, "tar"):
                yield from _images_of(inner)
    elif suffix == "tar":
        for entry in index_shard(path):
            yield f"{path}::{entry.key}", entry
    elif suffix in IMAGE_SUFFIXES:
        yield str(path), None
    else:
        raise UserError(f"{path}: not an image ({', '.join(IMAGE_SUFFIXES)}), folder or tar")
