"""Pack one's own images into shards of three splits, unless that is done already."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tgems.data.decoding import ImageError, open_rgb
from tgems.data.own_division import FEWEST, divided, groups_of
from tgems.data.tar_index import IMAGE_SUFFIXES, Entry, read_image
from tgems.data.webdataset import Sample, write_prompts, write_split
from tgems.errors import UserError, reason
from tgems.outputs import write_json
from tgems.provenance import digest_json, read_json

RECEIPT = "packed.json"


@dataclass(frozen=True)
class OwnImage:
    """An image to pack.

    Attributes:
        name: Path, or `TAR::KEY`, with the row of the table that lists it.
        file: File of the image, or its tar.
        entry: Sample of the tar; None for a file of its own.
        captions: Its captions.
        group: Name of the group of images that it belongs to, or None.
    """

    name: str
    file: Path
    entry: Entry | None = None
    captions: tuple[str, ...] = ()
    group: str | None = None

    def size(self) -> int:
        """Return its number of bytes; 0 if it is missing."""
        if self.entry is not None:
            return self.entry.size
        return self.file.stat().st_size if self.file.is_file() else 0

    def read(self) -> bytes:
        """Read its bytes.

        Raises:
            ImageError: It is missing, or cannot be read; the message is the reason.
        """
        if self.entry is None and not self.file.is_file():
            raise ImageError("there is no such image")
        try:
            return self.file.read_bytes() if self.entry is None else read_image(self.file, self.entry)
        except OSError as error:
            raise ImageError(f"cannot be read ({reason(error)})") from error

    def sample(self, key: str, group: str | None) -> Sample:
        """Read and check it.

        Args:
            key: Its key in the shard.
            group: Name of its group, if there are others in it.

        Raises:
            ImageError: It cannot be used; the message is the reason.
        """
        if self.entry is not None and self.entry.problem is not None:
            raise ImageError(self.entry.problem)
        suffix = suffix_of(self.file) if self.entry is None else self.entry.suffix
        if suffix not in IMAGE_SUFFIXES:
            raise ImageError(f"not an image file ({', '.join(IMAGE_SUFFIXES)})")
        data = self.read()
        try:
            open_rgb(data)
        except ImageError as error:
            raise ImageError(f"cannot be read ({error})") from error
        sources = {} if group is None else {"sources": [group]}
        own = {} if self.entry is None else self.entry.metadata
        return Sample(key, data, suffix, captions=self.captions, metadata=sources | own)


def suffix_of(path: Path) -> str:
    """Return what follows the last dot of a name, in small letters."""
    return path.suffix.lower().removeprefix(".")


def packed(
    images: Sequence[OwnImage],
    task: str,
    place: str,
    listed: Sequence[Path],
    out: Path,
    shards: int,
    seed: int,
    skip_bad: bool,
) -> dict:
    """Divide images and write the splits, unless the folder holds them already.

    Args:
        images: The images.
        task: `zeroshot_retrieval`, or `self_retrieval` for images without captions.
        place: Folder or table that lists the images, for messages.
        listed: Files on which the packed images depend.
        out: Folder to pack into.
        shards: See `tgems.data.own_images.own_dataset`.
        seed: See `own_dataset`.
        skip_bad: See `own_dataset`.

    Returns:
        Entry of `datasets`.

    Raises:
        UserError: There are too few images, or one cannot be read.
    """
    groups = groups_of([image.group for image in images], [image.size() for image in images], _reader(images))
    parts = divided(groups, seed, place)
    sizes = {role: -(-len(places) // (shards if role == "train" else 1)) for role, places in parts.items()}
    wanted = {
        "images": _state(listed, task),
        "division": digest_json([parts, groups]),
        "shard_sizes": sizes,
        "skip_bad": skip_bad,
    }
    receipt = out / RECEIPT
    made = read_json(receipt) if receipt.is_file() else None
    if not isinstance(made, dict) or {key: made.get(key) for key in wanted} != wanted:
        receipt.unlink(missing_ok=True)
        bad = _write(images, groups, parts, sizes, out, skip_bad)
        if len(images) - len(bad) < FEWEST:
            raise UserError(
                f"{place}: only {len(images) - len(bad)} of {len(images)} images can be read; training and testing a "
                f"T-GEM takes {FEWEST} at least"
            )
        write_prompts(out, None)
        write_json(receipt, wanted | {"left_out": bad})
    return {"source": f"wds:{out.resolve()}", "task": task}


def left_out(out: Path) -> list[tuple[str, str]]:
    """Return name and reason of each image that was left out of a folder of packed images."""
    receipt = out / RECEIPT
    return [(name, why) for name, why in read_json(receipt)["left_out"]] if receipt.is_file() else []


def _reader(images: Sequence[OwnImage]) -> Callable[[int], bytes]:
    def read(place: int) -> bytes:
        try:
            return images[place].read()
        except ImageError:  # such an image is refused or left out later; meanwhile it is like no other
            return str(place).encode()

    return read


def _write(
    images: Sequence[OwnImage],
    groups: Sequence[int],
    parts: dict[str, list[int]],
    sizes: dict[str, int],
    out: Path,
    skip_bad: bool,
) -> list[tuple[str, str]]:
    """Write the splits, and return name and reason of each image that is left out."""
    bad: list[tuple[str, str]] = []
    members = Counter(groups)

    def samples(role: str) -> Iterator[Sample]:
        for place in parts[role]:
            image, group = images[place], groups[place]
            named = None if members[group] == 1 else images[group].group or f"same as s{group:07d}"
            try:
                yield image.sample(f"s{place:07d}", named)
            except ImageError as error:
                if not skip_bad:
                    raise UserError(f"{image.name}: {error}; correct it, or leave it out with --skip-bad") from error
                bad.append((image.name, str(error)))

    for role in parts:
        found = samples(role)
        first = next(found, None)
        if first is None:
            name, why = bad[-1]
            raise UserError(f"{name}: {why}; none of {len(parts[role])} images for {role} can be read, correct them")
        write_split(chain([first], found), out / role, sizes[role])
    return bad


def _state(files: Sequence[Path], task: str) -> str:
    """Return a digest of the names, sizes and times of files, which changes when an image does."""
    state = []
    for path in files:
        found = path.stat() if path.is_file() else None
        state.append([str(path), found and found.st_size, found and found.st_mtime_ns])
    return digest_json([task, state])
