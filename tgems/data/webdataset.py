"""Read and write clip_benchmark's webdataset layout, in which both demo and real data sets are stored.

A data set is a folder with `classnames.txt`, `zeroshot_classification_templates.txt` and `dataset_type.txt`;
a split is a subfolder with `nshards.txt` and `0.tar` to `n-1.tar`. A sample is an image (png, jpg, jpeg, webp)
and a `.cls` (class number) or `.txt` (one caption per line), optionally with a `.json` (metadata). Training pairs may
also be stored as img2dataset writes them: in tars of any name, with one caption in each `.txt`.
"""

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tgems.data.tar_index import ShardError, index_shard, read_image
from tgems.provenance import digest_file, read_json, whole_folder, write_text
from tgems.untrusted import read_text

MOST_DIGITS = 6  # of a number of shards
PROMPT_FILES = ("classnames.txt", "zeroshot_classification_templates.txt")


@dataclass(frozen=True)
class Sample:
    """One encoded image with its key, its class number or captions, and optional metadata."""

    key: str
    image: bytes
    suffix: str = "png"
    label: int | None = None
    captions: tuple[str, ...] = ()
    metadata: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Prompts:
    """Class names and prompt templates of a data set; templates contain `{c}` for the class name."""

    classnames: tuple[str, ...]
    templates: tuple[str, ...]


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split.

    Attributes:
        name: Data set and split, for messages.
        shards: Shards in order.
        digests: SHA-256 of the shards by file name, if a receipt lists them.
        prompts: Folder of class names and templates.
        one_caption: Whether a `.txt` is a single caption, instead of one caption per line.
    """

    name: str
    shards: list[Path]
    digests: dict[str, str] | None
    prompts: Path
    one_caption: bool = False

    @classmethod
    def of(cls, path: Path) -> "SplitFiles":
        """Open a split from its folder or from the receipt of its download."""
        return cls.of_receipt(path) if Path(path).suffix == ".json" else cls.of_folder(path)

    @classmethod
    def of_folder(cls, folder: Path) -> "SplitFiles":
        """Open a split in clip_benchmark's layout.

        Raises:
            ShardError: `nshards.txt` or a shard is missing.
        """
        folder = Path(folder)
        return cls(f"{folder.parent.name}/{folder.name}", shard_paths(folder), None, folder.parent)

    @classmethod
    def of_receipt(cls, path: Path) -> "SplitFiles":
        """Open a split as its receipt lists it.

        Raises:
            ShardError: A file is missing, or its size has changed since the receipt was written.
        """
        receipt = read_json(path)
        root = Path(receipt["root"])
        for file in (*receipt["shards"], *receipt["prompts"]):
            listed = root / file["path"]
            size = listed.stat().st_size if os.path.isfile(listed) else None
            if size != file["size"]:
                state = "missing" if size is None else f"{size} bytes instead of {file['size']}"
                raise ShardError(f"{listed}: {state} since {path} was written; delete that receipt and run again")
        return cls(
            f"{receipt['dataset']}/{receipt['split']}",
            [root / file["path"] for file in receipt["shards"]],
            {Path(file["path"]).name: file["sha256"] for file in receipt["shards"]},
            root,
            receipt["source"].startswith("tars:"),
        )

    def read(self, shard: Path) -> Iterator[Sample]:
        """Read the samples of one of the shards in order; see `read_shard`."""
        return read_shard(shard, self.one_caption)

    def digest(self, shard: Path) -> str:
        """Return the SHA-256 of one of the shards, from the receipt if it has one."""
        return digest_file(shard) if self.digests is None else self.digests[shard.name]


def write_split(samples: Iterable[Sample], folder: Path, shard_size: int) -> int:
    """Write a split. The same samples give the same bytes, and the folder appears only once it is complete.

    Args:
        samples: Samples in order. Keys must be unique and must not contain dots.
        folder: Folder of the split; replaced if it exists.
        shard_size: Number of samples per shard.

    Returns:
        Number of samples.

    Raises:
        ShardError: There are no samples.
    """
    count = 0
    tar: tarfile.TarFile | None = None
    with whole_folder(folder) as partial:
        for sample in samples:
            if tar is None or count % shard_size == 0:
                if tar is not None:
                    tar.close()
                tar = tarfile.open(partial / f"{count // shard_size}.tar", "w", format=tarfile.USTAR_FORMAT)
            _add(tar, sample)
            count += 1
        if tar is None:
            raise ShardError(f"{folder}: a split needs at least one sample")
        tar.close()
        (partial / "nshards.txt").write_text(f"{-(-count // shard_size)}\n")
    return count


def _add(tar: tarfile.TarFile, sample: Sample) -> None:
    parts = {sample.suffix: sample.image}
    if sample.label is not None:
        parts["cls"] = str(sample.label).encode()
    if sample.captions:
        parts["txt"] = "\n".join(sample.captions).encode()
    if sample.metadata:
        parts["json"] = json.dumps(sample.metadata, sort_keys=True).encode()
    for suffix, data in parts.items():
        info = tarfile.TarInfo(f"{sample.key}.{suffix}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


def write_prompts(folder: Path, prompts: Prompts | None) -> None:
    """Write `dataset_type.txt` and, unless `prompts` is None for retrieval, class names and templates."""
    folder = Path(folder)
    write_text(folder / "dataset_type.txt", "retrieval\n" if prompts is None else "classification\n")
    if prompts is not None:
        write_text(folder / "classnames.txt", "".join(f"{name}\n" for name in prompts.classnames))
        write_text(folder / "zeroshot_classification_templates.txt", "".join(f"{t}\n" for t in prompts.templates))


def read_prompts(folder: Path) -> Prompts:
    """Read the class names and templates of a data set.

    Raises:
        ShardError: A file is missing or empty.
    """
    lines = []
    for name in PROMPT_FILES:
        path = Path(folder) / name
        if not os.path.isfile(path):
            raise ShardError(f"{path}: missing; zero-shot classification needs this file, with one entry per line")
        text = read_text(path, "zero-shot classification needs this file, with one entry per line")
        entries = tuple(line.strip() for line in text.splitlines() if line.strip())
        if not entries:
            raise ShardError(f"{path}: empty; zero-shot classification needs one entry per line there")
        lines.append(entries)
    return Prompts(*lines)


def shard_paths(folder: Path) -> list[Path]:
    """List the shards of a split in order.

    Raises:
        ShardError: `nshards.txt` or a shard is missing.
    """
    folder = Path(folder)
    count_file = folder / "nshards.txt"
    if not os.path.isfile(count_file):
        raise ShardError(f"{count_file}: missing; it must hold the number of shards of the split")
    text = read_text(count_file, "it must hold the number of shards of the split")
    if not text.strip().isdecimal() or len(text.strip()) > MOST_DIGITS:
        raise ShardError(f"{count_file}: {text!r:.40} is not a number of shards; correct it")
    count = int(text)
    paths = [folder / f"{i}.tar" for i in range(count)]
    missing = [str(p) for p in paths if not os.path.isfile(p)]
    if missing or not paths:
        raise ShardError(f"{folder}: nshards.txt lists {count} shards; missing: {', '.join(missing) or 'all'}")
    return paths


def read_shard(path: Path, one_caption: bool = False) -> Iterator[Sample]:
    """Read the samples of one shard in order.

    Args:
        path: The archive.
        one_caption: Whether a `.txt` is a single caption, instead of one caption per line.

    Raises:
        ShardError: The archive is damaged or empty, or a sample cannot be read, has no image, or has neither a label
            nor captions.
    """
    for entry in index_shard(path, one_caption):
        problem = entry.problem
        if problem is None and entry.label is None and not entry.captions:
            problem = "has neither a class (.cls) nor captions (.txt)"
        if problem is not None:
            raise ShardError(f"{path}: sample {entry.key!r} {problem}")
        image = read_image(path, entry)
        yield Sample(entry.key, image, entry.suffix, entry.label, entry.captions, entry.metadata)
