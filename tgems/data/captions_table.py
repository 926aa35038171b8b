"""Read the table of one's own images: captions, groups of images that belong together, or both."""

import os.path
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tgems.data.own_packing import OwnImage
from tgems.data.pack import read_rows
from tgems.errors import UserError, nearest

IMAGE_COLUMNS = ("path", "image", "file", "filename", "file_name", "filepath")
CAPTION_COLUMNS = ("caption", "captions", "text", "title")
GROUP_COLUMNS = ("group",)
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def images_of_table(table: Path, folder: Path, files: Sequence[Path]) -> tuple[list[OwnImage], str]:
    """Return the images that a table names, and the task that they are for.

    With captions, these are the images of its rows. A table of groups alone leaves out none of the images in the
    folder; those that it does not name belong to no group.

    Args:
        table: CSV with a row per caption, or per image.
        folder: Folder that its paths are relative to.
        files: Images in the folder.

    Raises:
        UserError: The table is missing or damaged, a column is missing, a cell is empty, an image is in two groups, or
            all captions are the same.
    """
    rows = read_rows(table)
    image, caption, group = (_column(rows, names) for names in (IMAGE_COLUMNS, CAPTION_COLUMNS, GROUP_COLUMNS))
    if image is None or (caption is None and group is None):
        _refuse(table, list(rows.columns), IMAGE_COLUMNS[0] if image is None else CAPTION_COLUMNS[0])
    rows = read_rows(table, *(column for column in (image, caption) if column is not None))
    paths = [folder / os.path.normpath(cell.strip()) for cell in rows[image]]
    found = []
    for path, own in rows.groupby(pd.Index(paths, dtype=object), sort=False):
        row = f"{table}: row {own.index[0] + 2}: image {path}"
        captions = () if caption is None else tuple(dict.fromkeys(" ".join(text.split()) for text in own[caption]))
        found.append(OwnImage(row, Path(str(path)), None, captions, None if group is None else _group(own[group], row)))
    if caption is None:
        named = {image.file for image in found}
        return [*found, *(OwnImage(str(path), path) for path in files if path not in named)], "self_retrieval"
    if len({text for image in found for text in image.captions}) == 1:
        raise UserError(
            f"{table}: all captions are {found[0].captions[0]!r:.60}, which tells no image from another; write "
            "captions that differ, or move this file elsewhere to train without captions"
        )
    return found, "zeroshot_retrieval"


def _group(cells: pd.Series, row: str) -> str | None:
    names = dict.fromkeys(cell.strip() for cell in cells if cell.strip())
    if len(names) > 1:
        first, second, *_ = names
        raise UserError(f"{row} is in group {first!r:.60} and, in another row, in {second!r:.60}; name one group")
    return next(iter(names), None)


def _column(rows: pd.DataFrame, wanted: tuple[str, ...]) -> str | None:
    """Return the first column of one of some names, whatever their case; None if there is none."""
    known = {str(name).strip().lower(): str(name) for name in reversed(list(rows.columns))}
    return next((known[name] for name in wanted if name in known), None)


def _refuse(table: Path, columns: list[str], wanted: str) -> None:
    separator = next((s for s in SEPARATORS if len(columns) == 1 and s in columns[0]), None)
    if separator is not None:
        raise UserError(f"{table}: its columns are separated by {SEPARATORS[separator]}; save it as CSV with commas")
    raise UserError(f"{table}: there is no column {wanted!r}; {nearest(wanted, columns)}")
