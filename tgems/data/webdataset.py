"""Read and write clip_benchmark's webdataset layout: the one way in and out for demo and real data sets.

A data set is a folder with `classnames.txt`, `zeroshot_classification_templates.txt` and `dataset_type.txt`;
a split is a folder below it with `nshards.txt` and `0.tar .. n-1.tar`. A sample is an image (png, jpg, jpeg, webp)
and `.cls` (a class number) or `.txt` (one caption a line), optionally `.json` (metadata).
"""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tgems.provenance import whole_folder

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp")


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


class ShardError(ValueError):
    """A split or shard that cannot be read: the message names the file and what was expected."""


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
    count, tar = 0, None
    with whole_folder(folder) as partial:
        for sample in samples:
            if count % shard_size == 0:
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
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_type.txt").write_text("retrieval\n" if prompts is None else "classification\n")
    if prompts is not None:
        (folder / "classnames.txt").write_text("".join(f"{name}\n" for name in prompts.classnames))
        (folder / "zeroshot_classification_templates.txt").write_text("".join(f"{t}\n" for t in prompts.templates))


def read_prompts(folder: Path) -> Prompts:
    """Read class names and templates.

    Raises:
        ShardError: A file is missing or empty.
    """
    lines = []
    for name in ("classnames.txt", "zeroshot_classification_templates.txt"):
        path = Path(folder) / name
        if not path.is_file():
            raise ShardError(f"{path}: missing; zero-shot classification needs one entry a line")
        entries = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
        if not entries:
            raise ShardError(f"{path}: empty; zero-shot classification needs one entry a line")
        lines.append(entries)
    return Prompts(*lines)


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a split in order.

    Raises:
        ShardError: `nshards.txt` or a shard is missing.
    """
    folder = Path(folder)
    count_file = folder / "nshards.txt"
    try:
        count = int(count_file.read_text())
    except FileNotFoundError:
        raise ShardError(f"{count_file}: missing; a split needs the number of its shards there") from None
    except ValueError:
        raise ShardError(f"{count_file}: {count_file.read_text()!r} is not a number of shards") from None
    paths = [folder / f"{i}.tar" for i in range(count)]
    missing = [str(p) for p in paths if not p.is_file()]
    if missing or not paths:
        raise ShardError(f"{folder}: nshards.txt says {count} shards; missing: {', '.join(missing) or 'all'}")
    return paths


def read_shard(path: Path) -> Iterator[Sample]:
    """Read the samples of one shard in order.

    Raises:
        ShardError: The archive is damaged or empty, or a sample lacks its image or both label and captions.
    """
    current: str | None = None
    parts: dict[str, bytes] = {}
    empty = True
    _check_end(path)
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.isfile():
                    continue
                key, _, suffix = member.name.partition(".")
                if key != current and current is not None:
                    yield _sample(path, current, parts)
                    parts = {}
                current, empty = key, False
                parts[suffix.lower()] = tar.extractfile(member).read()
    except tarfile.TarError as error:
        raise ShardError(f"{path}: damaged archive ({error}); write or download the shard again") from None
    if empty:
        raise ShardError(f"{path}: the shard holds no sample")
    yield _sample(path, current, parts)


def _check_end(path: Path) -> None:
    """A whole archive ends with two empty blocks; `tarfile` takes a cut between members for the end."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1024))
        if size % 512 or file.read() != bytes(1024):
            raise ShardError(f"{path}: damaged archive (no end mark); write or download the shard again")


def _sample(path: Path, key: str, parts: dict[str, bytes]) -> Sample:
    suffix = next((s for s in IMAGE_SUFFIXES if s in parts), None)
    if suffix is None:
        raise ShardError(f"{path}: sample {key!r} has no image ({', '.join(IMAGE_SUFFIXES)}), only {sorted(parts)}")
    captions = tuple(line for line in parts.get("txt", b"").decode().splitlines() if line.strip())
    if "cls" not in parts and not captions:
        raise ShardError(f"{path}: sample {key!r} has neither a class (.cls) nor captions (.txt)")
    return Sample(
        key=key,
        image=parts[suffix],
        suffix=suffix,
        label=int(parts["cls"]) if "cls" in parts else None,
        captions=captions,
        metadata=json.loads(parts["json"]) if "json" in parts else {},
    )
