"""Make a data set for training out of one's own images, with or without captions, held-out parts included.

A folder, or a few tars, is packed into shards of three splits, drawn at random; tars of which there are enough are
divided by whole shards, and left where they are. Images without captions get the task `self_retrieval`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tgems.data.dataset_entries import ROLES, given
from tgems.data.decoding import ImageError, open_rgb
from tgems.data.pack import packed_samples, read_rows
from tgems.data.tar_index import IMAGE_SUFFIXES, index_shard
from tgems.data.webdataset import Sample, read_shard, write_prompts, write_split
from tgems.errors import UserError, nearest, reading, reason
from tgems.outputs import write_json
from tgems.provenance import digest_json, read_json

IMAGE_COLUMNS = ("path", "image", "file", "filename", "file_name", "filepath")
CAPTION_COLUMNS = ("caption", "captions", "text", "title")
HELD_OUT = 2_000
"""Most images of validation, and of test; each is otherwise a fifth of packed images, or a tenth of the tars."""
FEWEST = 20
DIVISIBLE = 5
"""Fewest tars that are divided by whole tars."""


def own_dataset(images: str, out: Path, captions: Path | None = None, shards: int = 1, seed: int = 0) -> dict:
    """Return the entry of the configuration for one's own images, and pack them where that is necessary.

    Args:
        images: `FOLDER` of image files, `tars:FOLDER` as img2dataset writes it, `wds:FOLDER` or `hub:ORG/REPO` in
            clip_benchmark's layout, or the name of a known data set.
        out: Folder to pack images into; what it holds already is kept if the images are the same.
        captions: CSV with a row per caption; None for `captions.csv` in the folder, if there is one.
        shards: Least number of training shards, which are encoded side by side.
        seed: Seed of the division into training, validation and test images.

    Returns:
        Entry of `datasets`, with absolute paths.

    Raises:
        UserError: There are no such images, too few of them, or one cannot be read.
    """
    scheme, colon, rest = images.partition(":")
    if captions is not None and (colon or not Path(images).is_dir()):
        raise UserError(f"--captions {captions}: is for a folder of image files, but --images is {images!r}")
    if scheme == "hub" or images in given():
        return _on_the_hub(images)
    if scheme == "wds":
        return {"source": f"wds:{Path(rest).resolve()}", "task": "zeroshot_retrieval"}
    if scheme == "tars":
        return _tars(Path(rest).resolve(), Path(out), shards, seed)
    folder = Path(images)
    with reading(folder, "check the name"):
        if not folder.is_dir():
            raise UserError(
                f"--images {images!r}: there is no such folder; write FOLDER, tars:FOLDER, wds:FOLDER or hub:ORG/REPO"
            )
    table = captions or (folder / "captions.csv" if (folder / "captions.csv").is_file() else None)
    if table is None:
        return _without_captions(folder.resolve(), Path(out), shards, seed)
    return _with_captions(folder.resolve(), Path(table), Path(out), shards, seed)


def _on_the_hub(images: str) -> dict:
    """Return the entry of a data set on the hub; one that is known keeps its revision and its splits."""
    known = [entry for name, entry in given().items() if images in (name, entry["source"])]
    if not known:
        return {"source": images, "task": "zeroshot_retrieval"}
    if known[0]["task"] != "zeroshot_retrieval":
        raise UserError(f"--images {images!r}: holds classes, not captions; name a data set with captions")
    return {key: known[0][key] for key in ("source", "task", "splits", "revision")}


def _tars(folder: Path, out: Path, shards: int, seed: int) -> dict:
    with reading(folder, "check the name"):
        tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise UserError(f"{folder}: no .tar file in this folder, or no such folder; check the name")
    last = index_shard(tars[-1], "zeroshot_retrieval", one_caption=True)
    captioned = any(entry.captions for entry in last)
    task = "zeroshot_retrieval" if captioned else "self_retrieval"
    if len(tars) >= DIVISIBLE:
        held = min(max(HELD_OUT // len(last), 1), max(len(tars) // 10, 1))
        ends = len(tars) - 2 * held, len(tars) - held
        splits = {"train": f"[:{ends[0]}]", "validation": f"[{ends[0]}:{ends[1]}]", "test": f"[{ends[1]}:]"}
        return {"source": f"tars:{folder}", "task": task, "splits": splits}
    keys = [(tar, entry.key) for tar in tars for entry in index_shard(tar, task, one_caption=True)]
    parts = _divided(len(keys), seed, str(folder))
    role = {keys[place]: name for name, places in parts.items() for place in places}
    number = {key: f"s{place:07d}" for place, key in enumerate(keys)}

    def samples(name: str) -> Iterator[Sample]:
        for tar in tars:
            for sample in read_shard(tar, task, one_caption=True):
                if role[tar, sample.key] == name:
                    yield replace(sample, key=number[tar, sample.key])

    return _packed(out, parts, shards, _state(tars, task), samples, task)


def _without_captions(folder: Path, out: Path, shards: int, seed: int) -> dict:
    with reading(folder, "check that you may read it"):
        files = sorted(path for path in folder.rglob("*") if _suffix(path) in IMAGE_SUFFIXES and path.is_file())
    if not files:
        raise UserError(f"{folder}: no image ({', '.join(IMAGE_SUFFIXES)}) in this folder; check the name")
    parts = _divided(len(files), seed, str(folder))

    def samples(name: str) -> Iterator[Sample]:
        for place in parts[name]:
            try:
                data = files[place].read_bytes()
                open_rgb(data)
            except (OSError, ImageError) as error:
                raise UserError(
                    f"{files[place]}: cannot be read ({reason(error)}); mend it, or move it elsewhere"
                ) from error
            yield Sample(f"s{place:07d}", data, _suffix(files[place]))

    return _packed(out, parts, shards, _state(files, "self_retrieval"), samples, "self_retrieval")


def _with_captions(folder: Path, table: Path, out: Path, shards: int, seed: int) -> dict:
    rows = read_rows(table)
    image, caption = (_column(table, list(rows.columns), names) for names in (IMAGE_COLUMNS, CAPTION_COLUMNS))
    rows = read_rows(table, image, caption)
    names = rows[image].unique()
    parts = _divided(len(names), seed, str(table))

    def samples(name: str) -> Iterator[Sample]:
        own = rows[rows[image].isin(set(names[parts[name]]))]
        return packed_samples(folder, table, own, image, caption, None)

    listed = [table, *(folder / name for name in names)]
    return _packed(out, parts, shards, _state(listed, "zeroshot_retrieval"), samples, "zeroshot_retrieval")


def _column(table: Path, columns: Sequence[str], wanted: tuple[str, ...]) -> str:
    found = [name for name in wanted if name in columns]
    if not found:
        raise UserError(f"{table}: there is no column {wanted[0]!r}; {nearest(wanted[0], columns)}")
    return found[0]


def _suffix(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")


def _divided(n: int, seed: int, place: str) -> dict[str, list[int]]:
    """Divide images into roles at random; within a role they keep their order."""
    if n < FEWEST:
        raise UserError(
            f"{place}: holds {n} images; training and testing a T-GEM takes {FEWEST} at least, better 1,000"
        )
    order, held = np.random.default_rng(seed).permutation(n), min(n // 5, HELD_OUT)
    ends = {"train": order[2 * held :], "validation": order[:held], "test": order[held : 2 * held]}
    return {role: sorted(ends[role].tolist()) for role in ROLES}


def _state(files: Sequence[Path], task: str) -> str:
    """Return a digest of the names, sizes and times of files, which changes when an image does."""
    state = []
    for path in files:
        found = path.stat() if path.is_file() else None
        state.append([str(path), found and found.st_size, found and found.st_mtime_ns])
    return digest_json([task, state])


def _packed(
    out: Path,
    parts: dict[str, list[int]],
    shards: int,
    state: str,
    samples: Callable[[str], Iterator[Sample]],
    task: str,
) -> dict:
    """Write the splits, unless the folder holds them already."""
    sizes = {role: -(-len(places) // (shards if role == "train" else 1)) for role, places in parts.items()}
    wanted = {"images": state, "shard_sizes": sizes}
    receipt = out / "packed.json"
    if not (receipt.is_file() and read_json(receipt) == wanted):
        receipt.unlink(missing_ok=True)
        for role in parts:
            write_split(samples(role), out / role, sizes[role])
        write_prompts(out, None)
        write_json(receipt, wanted)
    return {"source": f"wds:{out.resolve()}", "task": task}
