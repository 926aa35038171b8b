"""Find images in files, folders and tars, and decode them, with a reason for each image that cannot be read."""

import glob
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tgems.data.decoding import ImageError, open_rgb
from tgems.data.tar_index import IMAGE_SUFFIXES, Entry, index_shard, read_image
from tgems.errors import UserError, reading, reason


@dataclass(frozen=True)
class ImageFile:
    """An image in a file of its own, or a sample of a tar.

    Attributes:
        path: The file or the tar.
        entry: Sample of the tar, or None.
    """

    path: Path
    entry: Entry | None = None

    @property
    def name(self) -> str:
        """Path, or `TAR::KEY`; bytes of a path that are not UTF-8 are escaped, such as `caf\\xe9.png`."""
        path = os.fsencode(self.path).decode("utf-8", "backslashreplace")
        return path if self.entry is None else f"{path}::{self.entry.key}"

    def state(self) -> tuple[str, int, int]:
        """Return name, size in bytes and time of the last change in ns; zeros if it is gone."""
        try:
            found = self.path.stat()
        except OSError:
            return self.name, 0, 0
        return self.name, found.st_size, found.st_mtime_ns


class ImageFiles(Dataset):
    """Images by place: place and preprocessed image `[3, h, w]`, or place and the reason why it cannot be read."""

    def __init__(self, images: Sequence[ImageFile], preprocess: Callable):
        self.images, self.preprocess = images, preprocess

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[int, Tensor | str]:
        path, entry = self.images[place].path, self.images[place].entry
        if entry is not None and entry.problem:
            return place, entry.problem
        try:
            image = open_rgb(path.read_bytes() if entry is None else read_image(path, entry))
        except (OSError, ImageError) as error:
            return place, f"cannot be read ({reason(error)})"
        return place, self.preprocess(image)


@dataclass(frozen=True)
class DecodedBatch:
    """A batch of images, without those that cannot be read.

    Attributes:
        places: Places of those that can be read, among all images.
        images: The preprocessed images of these places, each `[3, h, w]`.
        bad: Name and reason of each image that cannot be read.
    """

    places: list[int]
    images: list[Tensor]
    bad: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.places) + len(self.bad)


def decoded_batches(
    images: Sequence[ImageFile], preprocess: Callable, batch_size: int, workers: int, skip_bad: bool
) -> Iterator[DecodedBatch]:
    """Yield images in their order, decoded and preprocessed.

    Args:
        images: Images.
        preprocess: PIL image -> tensor `[3, h, w]`.
        batch_size: Number of images per batch.
        workers: Processes that decode.
        skip_bad: Whether to go on after an image that cannot be read.

    Raises:
        UserError: An image cannot be read, and `skip_bad` is false.
    """
    files = ImageFiles(images, preprocess)
    with warnings.catch_warnings():  # more workers than cores are the user's choice
        warnings.filterwarnings("ignore", "This DataLoader will create")
        batches = iter(DataLoader(files, batch_size=batch_size, num_workers=workers, collate_fn=_as_is))
    for batch in batches:
        bad = [(images[place].name, found) for place, found in batch if isinstance(found, str)]
        if bad and not skip_bad:
            name, why = bad[0]
            raise UserError(f"{name}: {why}; fix it, or leave it out with --skip-bad")
        good = [(place, image) for place, image in batch if not isinstance(image, str)]
        yield DecodedBatch([place for place, _ in good], [image for _, image in good], bad)


def _as_is(batch: list) -> list:
    """Return a batch as it is; a named function, so that workers can be started by any method."""
    return batch


def find_images(words: Sequence[str]) -> list[ImageFile]:
    """Find the images that files, folders, globs and tars name, in order, each once.

    Raises:
        UserError: A word names nothing, or a file of unknown kind.
    """
    found: dict[tuple[str, str | None], ImageFile] = {}
    for word in words:
        with reading(word, "check the name, and that you may read it"):
            named = word.strip() and Path(word).exists()
            paths = [Path(p) for p in ([word] if named else sorted(glob.glob(word, recursive=True)))]
        if not paths:
            raise UserError(f"{word or repr(word)}: there is no such file, folder or match")
        for path in paths:
            for image in _images_of(path):  # a second time, it may be named in another way
                key = os.path.abspath(image.path), image.entry and image.entry.key
                found.setdefault(key, image)
    if not found:
        raise UserError(f"{' '.join(words)}: no image ({', '.join(IMAGE_SUFFIXES)}) and no tar with images")
    return list(found.values())


def _images_of(path: Path) -> Iterator[ImageFile]:
    suffix = path.suffix.lower().removeprefix(".")
    if path.is_dir():
        for inner in sorted(_files_below(path)):
            if inner.is_file() and inner.suffix.lower().removeprefix(".") in (*IMAGE_SUFFIXES, "tar"):
                yield from _images_of(inner)
    elif suffix == "tar":
        for entry in index_shard(path):
            yield ImageFile(path, entry)
    elif suffix in IMAGE_SUFFIXES:
        yield ImageFile(path)
    else:
        raise UserError(f"{path}: not an image ({', '.join(IMAGE_SUFFIXES)}), folder or tar")


def _files_below(folder: Path) -> Iterator[Path]:
    """Return the files below a folder. Unlike `Path.rglob`, it refuses folders without permission."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({reason(error)}); check that you may read it")

    for parent, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(parent, name) for name in names)
