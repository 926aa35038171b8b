"""Read and write clip_benchmark's webdataset layout: the one way in and out for demo and real data sets.

A data set is a folder with `classnames.txt`, `zeroshot_classification_templates.txt` and `dataset_type.txt`;
a split is a folder below it with `nshards.txt` and `0.tar .. n-1.tar`. A sample is an image (png, jpg, jpeg, webp)
and `.cls` (a class number) or `.txt` (one caption a line), optionally `.json` (metadata). Training pairs may also come
as img2dataset writes them: tars of any name, `.txt` holding one caption.
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

MOST_DIGITS = 6  # of the number of shards
PROMPT_FILES = ("classnames.txt", "zeroshot_classification_templates.txt")


@dataclass(frozen=True)
class Sample:
    """One image, encoded, with its key and its class number or captions; `metadata` may be empty."""

    key: str
    image: bytes
    suffix: str = "png"
    label: int | None = None
    captions: tuple[str, ...] = ()
    metadata: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Prompts:
    """Class names and templates (with `{c}`) as the data set ships them; empty for retrieval."""

    classnames: tuple[str, ...]
    templates: tuple[str, ...]


@dataclass(frozen=True)
class SplitFiles:
    """Where one split is read from.

    Attributes:
        name: Data set and split, for messages.
        shards: In order.
        digests: SHA-256 by file name of the shards, where a receipt knows them.
        prompts: Folder of class names and templates.
        one_caption: Whether a `.txt` is one caption instead of one a line.
    """

    name: str
    shards: list[Path]
    digests: dict[str, str] | None
    prompts: Path
    one_caption: bool = False

    @classmethod
    def of(cls, path: Path) -> "SplitFiles":
        """Open a split's folder, or the receipt of one that was fetched."""
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
            ShardError: A file is missing, or has another size than when the receipt was written.
        """
        receipt = read_json(path)
        root = Path(receipt["root"])
        for file in (*receipt["shards"], *receipt["prompts"]):
            one = root / file["path"]
            if not os.path.isfile(one) or one.stat().st_size != file["size"]:
                size = f"{one.stat().st_size} bytes instead of {file['size']}" if os.path.isfile(one) else ""
                state = size or "missing"
                raise ShardError(f"{one}: {state} since {path} was written; delete that receipt and run again")
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
    """Write a split so that equal samples give equal bytes; the folder appears whole or not at all.

    Args:
        samples: Samples in order; keys must be unique and without dots.
        folder: Folder of the split; replaced if it exists.
        shard_size: Samples a shard.

    Returns:
        Number of samples.

    Raises:
        ShardError: There is no sample.
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
    """Write `dataset_type.txt` and, for classification, class names and templates; None means retrieval."""
    folder = Path(folder)
    write_text(folder / "dataset_type.txt", "retrieval\n" if prompts is None else "classification\n")
    if prompts is not None:
        write_text(folder / "classnames.txt", "".join(f"{name}\n" for name in prompts.classnames))
        write_text(folder / "zeroshot_classification_templates.txt", "".join(f"{t}\n" for t in prompts.templates))


def read_prompts(folder: Path) -> Prompts:
    """Read class names and templates.

    Raises:
        ShardError: A file is missing or empty.
    """
    lines = []
    for name in PROMPT_FILES:
        path = Path(folder) / name
        if not os.path.isfile(path):
            raise ShardError(f"{path}: missing; zero-shot classification needs one entry per line")
        text = read_text(path, "zero-shot classification needs one entry per line")
        entries = tuple(line.strip() for line in text.splitlines() if line.strip())
        if not entries:
            raise ShardError(f"{path}: empty; zero-shot classification needs one entry per line")
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
        raise ShardError(f"{count_file}: missing; a split needs the number of its shards there")
    text = read_text(count_file, "a split needs the number of its shards there")
    if not text.strip().isdecimal() or len(text.strip()) > MOST_DIGITS:
        raise ShardError(f"{count_file}: {text!r:.40} is not a number of shards")
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
        one_caption: Whether a `.txt` is one caption, line ends being blanks, instead of one a line.

    Raises:
        ShardError: The archive is damaged or empty, or a sample cannot be read, or lacks its image or both label and
            captions.
    """
    for entry in index_shard(path, one_caption):
        problem = entry.problem
        if problem is None and entry.label is None and not entry.captions:
            problem = "has neither a class (.cls) nor captions (.txt)"
        if problem is not None:
            raise ShardError(f"{path}: sample {entry.key!r} {problem}")
        image = read_image(path, entry)
        yield Sample(entry.key, image, entry.suffix, entry.label, entry.captions, entry.metadata)
