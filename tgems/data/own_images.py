"""Make a data set for training out of one's own images, with or without captions, held-out parts included.

A folder, or a few tars, is packed into shards of three splits, drawn at random; tars of which there are enough are
divided by whole shards, and left where they are. Images without captions get the task `self_retrieval`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from os.path import lexists
from pathlib import Path

from tgems.data.captions_table import images_of_table
from tgems.data.dataset_entries import given
from tgems.data.own_division import HELD_OUT
from tgems.data.own_packing import OwnImage, packed, suffix_of
from tgems.data.tar_index import IMAGE_SUFFIXES, index_shard
from tgems.errors import UserError, reading

DIVISIBLE = 5
"""Fewest tars that are divided by whole tars."""
OTHER_IMAGES = ("heic", "heif", "avif", "gif", "bmp", "tif", "tiff", "jfif", "jxl", "dng", "cr2", "nef", "arw")
"""Suffixes of images that are not read, which the user is told about."""


def own_dataset(
    images: str,
    out: Path,
    captions: Path | None = None,
    shards: int = 1,
    seed: int = 0,
    skip_bad: bool = False,
    note: Callable[[str], None] = lambda line: None,
) -> dict:
    """Return the entry of the configuration for one's own images, and pack them where that is necessary.

    Packed images with a common group, and images with identical bytes, are in one split, and the group is their source
    (docs/method.md#uncertainty).

    Args:
        images: `FOLDER` of image files, `tars:FOLDER` as img2dataset writes it, `wds:FOLDER` or `hub:ORG/REPO` in
            clip_benchmark's layout, or the name of a known data set.
        out: Folder to pack images into; what it holds already is kept if the images are the same.
        captions: CSV with a row per caption, and optionally a group of images that belong together; None for
            `captions.csv` in the folder, if there is one.
        shards: Least number of training shards, which are encoded side by side.
        seed: Seed of the division into training, validation and test images.
        skip_bad: Whether to leave out images that cannot be read; `tgems.data.own_packing.left_out` lists those that
            would have been packed.
        note: Function that is told about images that are not used.

    Returns:
        Entry of `datasets`, with absolute paths.

    Raises:
        UserError: There are no such images, too few of them, or one cannot be read.
    """
    scheme, colon, rest = images.partition(":")
    if captions is not None and (colon or not Path(images).is_dir()):
        raise UserError(f"--captions {captions}: is for a folder of image files, but --images is {images!r}")
    skip = {"on_bad_sample": "skip"} if skip_bad else {}
    if scheme == "hub" or images in given():
        return _on_the_hub(images) | skip
    if scheme == "wds":
        return {"source": f"wds:{Path(rest).resolve()}", "task": "zeroshot_retrieval"} | skip
    if scheme == "tars":
        tars = _tars_in(Path(rest).resolve())
        if len(tars) >= DIVISIBLE:
            return _divided_by_tars(tars) | skip
        found, task = _images_of_tars(tars)
        return packed(found, task, str(tars[0].parent), tars, Path(out), shards, seed, skip_bad)
    folder = Path(images)
    with reading(folder, "check the name"):
        if not images.strip() or not folder.is_dir():
            raise UserError(
                f"--images {images!r}: there is no such folder; write FOLDER, tars:FOLDER, wds:FOLDER or hub:ORG/REPO"
            )
    folder = folder.resolve()
    table = captions or (folder / "captions.csv" if lexists(folder / "captions.csv") else None)
    files = _image_files(folder, note)
    if table is None:
        found, task, place = [OwnImage(str(path), path) for path in files], "self_retrieval", folder
    else:
        found, task, place = *images_of_table(Path(table), folder, files), table
        used = {image.file for image in found}
        if unused := sum(path not in used for path in files):
            note(f"not used: {unused:,} of {len(files):,} images in {folder}, which have no row in {table}")
    listed = [*filter(None, [table]), *(image.file for image in found)]
    return packed(found, task, str(place), listed, Path(out), shards, seed, skip_bad)


def _on_the_hub(images: str) -> dict:
    """Return the entry of a data set on the hub; one that is known keeps its revision and its splits."""
    known = [entry for name, entry in given().items() if images in (name, entry["source"])]
    if not known:
        return {"source": images, "task": "zeroshot_retrieval"}
    if known[0]["task"] != "zeroshot_retrieval":
        raise UserError(f"--images {images!r}: holds classes, not captions; name a data set with captions")
    return {key: known[0][key] for key in ("source", "task", "splits", "revision")}


def _tars_in(folder: Path) -> list[Path]:
    with reading(folder, "check the name"):
        tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise UserError(f"{folder}: no .tar file in this folder, or no such folder; check the name")
    return tars


def _task_of(tar: Path) -> tuple[str, int]:
    """Return the task of a tar, which says whether its samples have captions, and its number of samples."""
    entries = index_shard(tar, "zeroshot_retrieval", one_caption=True)
    return ("zeroshot_retrieval" if any(entry.captions for entry in entries) else "self_retrieval"), len(entries)


def _divided_by_tars(tars: Sequence[Path]) -> dict:
    task, samples = _task_of(tars[-1])
    held = min(max(HELD_OUT // samples, 1), max(len(tars) // 10, 1))
    ends = len(tars) - 2 * held, len(tars) - held
    splits = {"train": f"[:{ends[0]}]", "validation": f"[{ends[0]}:{ends[1]}]", "test": f"[{ends[1]}:]"}
    return {"source": f"tars:{tars[0].parent}", "task": task, "splits": splits}


def _images_of_tars(tars: Sequence[Path]) -> tuple[list[OwnImage], str]:
    """Return the samples of a few tars, and their task; a sample with a single source is of the group of this name."""
    task, _ = _task_of(tars[-1])
    found = []
    for tar in tars:
        for entry in index_shard(tar, task, one_caption=True):
            sources = entry.metadata.get("sources", [])
            group = sources[0] if len(sources) == 1 else None
            found.append(OwnImage(f"{tar}::{entry.key}", tar, entry, entry.captions, group))
    return found, task


def _image_files(folder: Path, note: Callable[[str], None]) -> list[Path]:
    """Find the images in a folder and below, and tell about files that are images of other formats."""
    with reading(folder, "check that you may read it"):
        every = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in every if suffix_of(path) in IMAGE_SUFFIXES]
    others = Counter(suffix_of(path) for path in every if suffix_of(path) in OTHER_IMAGES)
    counted = ", ".join(f"{count:,} .{suffix}" for suffix, count in sorted(others.items()))
    if not files:
        found = f"; convert {counted} to JPEG or PNG" if counted else ", or below it; check the name"
        raise UserError(f"{folder}: no image ({', '.join(IMAGE_SUFFIXES)}) in this folder{found}")
    if counted:
        note(f"not used: {counted} in {folder}; convert them to JPEG or PNG")
    return files
