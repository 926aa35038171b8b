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

from tgems.data.receipt import read_receipt
from tgems.data.tar_index import Entry, ShardError, index_shard, read_image
from tgems.data.text_files import read_lines, read_shard_count, read_templates
from tgems.outputs import whole_folder, write_text
from tgems.provenance import digest_file

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
        task: `zeroshot_classification`, `zeroshot_retrieval` or `self_retrieval`, which decides what a sample consists
            of: an image with its class, with its captions, or alone.
        one_caption: Whether a `.txt` is a single caption, instead of one caption per line.
    """

    name: str
    shards: list[Path]
    digests: dict[str, str] | None
    prompts: Path
    task: str
    one_caption: bool = False

    @classmethod
    def of(cls, path: Path, task: str) -> "SplitFiles":
        """Open a split from its folder or from the receipt of its download."""
        return cls.of_receipt(path, task) if Path(path).suffix == ".json" else cls.of_folder(path, task)

    @classmethod
    def of_folder(cls, folder: Path, task: str) -> "SplitFiles":
        """Open a split in clip_benchmark's layout.

        Raises:
            ShardError: `nshards.txt` or a shard is missing.
        """
        folder = Path(folder)
        return cls(f"{folder.parent.name}/{folder.name}", shard_paths(folder), None, folder.parent, task)

    @classmethod
    def of_receipt(cls, path: Path, task: str) -> "SplitFiles":
        """Open a split as its receipt lists it.

        Raises:
            UserError: The receipt is damaged, a file is missing, or its size has changed since the receipt was written.
        """
        receipt = read_receipt(path)
        root = Path(receipt.root)
        for file in (*receipt.shards, *receipt.prompts):
            listed = root / file.path
            size = listed.stat().st_size if os.path.isfile(listed) else None
            if size != file.size:
                state = "missing" if size is None else f"{size} bytes instead of {file.size}"
                raise ShardError(f"{listed}: {state} since {path} was written; delete that receipt and run again")
        return cls(
            f"{receipt.dataset}/{receipt.split}",
            [root / file.path for file in receipt.shards],
            {Path(file.path).name: file.sha256 for file in receipt.shards},
            root,
            task,
            receipt.source.startswith("tars:"),
        )

    def index(self, shard: Path) -> list[Entry]:
        """List the samples of one of the shards in order; see `index_shard`.

        Raises:
            ShardError: A class number is beyond the class names.
        """
        entries = index_shard(shard, self.task, self.one_caption)
        if self.task == "zeroshot_classification":
            classes = len(read_prompts(self.prompts).classnames)
            for entry in entries:
                if entry.label is not None and entry.label >= classes:
                    raise ShardError(
                        f"{shard}: sample {entry.key!r} has class {entry.label}, but {self.prompts / 'classnames.txt'} "
                        f"lists {classes} classes, from 0; correct one of them"
                    )
        return entries

    def read(self, shard: Path) -> Iterator[Sample]:
        """Read the samples of one of the shards in order; see `read_shard`."""
        return read_shard(shard, self.task, self.one_caption)

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
        UserError: A file is missing, or does not hold one entry per line; the message names the line.
    """
    names, templates = (Path(folder) / name for name in PROMPT_FILES)
    return Prompts(read_lines(names), read_templates(templates))


def shard_paths(folder: Path) -> list[Path]:
    """List the shards of a split in order.

    Raises:
        UserError: `nshards.txt` or a shard is missing.
    """
    folder = Path(folder)
    count = read_shard_count(folder / "nshards.txt", "it must hold the number of shards of the split")
    paths = []
    for number in range(count):
        paths.append(folder / f"{number}.tar")
        if not os.path.isfile(paths[-1]):
            raise ShardError(
                f"{paths[-1]}: missing, but nshards.txt lists {count} shards; add it, or correct the number"
            )
    return paths


def read_shard(path: Path, task: str | None = None, one_caption: bool = False) -> Iterator[Sample]:
    """Read the samples of one shard in order.

    Args:
        path: The archive.
        task: What a sample consists of; see `index_shard`.
        one_caption: Whether a `.txt` is a single caption, instead of one caption per line.

    Raises:
        ShardError: The archive is damaged or empty, or a sample lacks what the task needs.
    """
    for entry in index_shard(path, task, one_caption):
        if entry.problem is not None:
            raise ShardError(f"{path}: sample {entry.key!r} {entry.problem}")
        image = read_image(path, entry)
        yield Sample(entry.key, image, entry.suffix, entry.label, entry.captions, entry.metadata)
