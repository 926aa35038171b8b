"""Pack a folder of images and a CSV into a data set in clip_benchmark's webdataset layout.

python -m tgems.data.pack IMAGES CSV OUT --split test --label-column class (or --caption-column caption)
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from tgems.data.decoding import ImageError, open_rgb
from tgems.data.tar_index import IMAGE_SUFFIXES
from tgems.data.text_files import read_lines, read_templates
from tgems.data.webdataset import Prompts, Sample, read_prompts, write_prompts, write_split
from tgems.errors import UserError, nearest, reading, reason
from tgems.failures import one_line_errors
from tgems.untrusted import read_text

TEMPLATES = ("a photo of a {c}.",)


def pack(
    images: Path,
    table: Path,
    out: Path,
    split: str,
    image_column: str = "path",
    label_column: str | None = None,
    caption_column: str | None = None,
    classnames: Path | None = None,
    templates: Path | None = None,
    shard_size: int = 1000,
) -> int:
    """Pack a folder of images and a CSV into one split of a data set.

    Args:
        images: Folder that the paths in the table are relative to.
        table: CSV with a row per image, or per caption; the rows of an image give its captions.
        out: Folder of the data set, which may have other splits already.
        split: Name of the split.
        image_column: Column of image paths.
        label_column: Column of class names, for classification.
        caption_column: Column of captions, for retrieval.
        classnames: File with one class per line, in the order of the class numbers. The default is the class names of
            the data set's other splits, or else those of the table in alphabetical order.
        templates: File with one prompt template per line, with `{c}` for the class.
        shard_size: Number of images per shard.

    Returns:
        Number of images.

    Raises:
        UserError: A column, image or class is missing, an image cannot be read, or the data set's other splits are of
            another kind or have other classes.
    """
    images, table, out = Path(images), Path(table), Path(out)
    content = label_column if caption_column is None else caption_column
    if content is None or None not in (label_column, caption_column):
        raise UserError("give either --label-column (classification) or --caption-column (retrieval)")
    rows = read_rows(table, image_column, content)
    prompts = None
    if label_column is not None:
        prompts = _prompts(out, rows[content], table, classnames, templates)
        unknown = rows[~rows[content].isin(prompts.classnames)]
        if len(unknown):
            name = unknown[content].iloc[0]
            raise UserError(
                f"{_row(table, unknown.index[0])}: class {name!r} is not among the class names; "
                f"{nearest(name, prompts.classnames)}"
            )
    _check_type(out, prompts)
    count = write_split(packed_samples(images, table, rows, image_column, content, prompts), out / split, shard_size)
    write_prompts(out, prompts)
    return count


def read_rows(table: Path, *columns: str) -> pd.DataFrame:
    """Read a CSV and check that it has the columns, without empty cells.

    Raises:
        UserError: The file is missing, damaged or empty, or a column is missing or has an empty cell.
    """
    _check_file(table)
    try:
        with reading(table, "expected a CSV in UTF-8", pd.errors.ParserError, UnicodeDecodeError):
            rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError:
        raise UserError(f"{table}: empty; expected a line of column names and a row per image") from None
    if not isinstance(rows.index, pd.RangeIndex):  # pandas takes the first cells of longer rows as an index
        raise UserError(f"{table}: rows have more cells than there are column names; quote cells that hold commas")
    for column in columns:
        if column not in rows:
            raise UserError(f"{table}: there is no column {column!r}; {nearest(column, rows.columns)}")
        blank = rows.index[rows[column].str.strip() == ""]
        if len(blank):
            raise UserError(f"{_row(table, blank[0])}: column {column!r} is empty")
    if rows.empty:
        raise UserError(f"{table}: empty; expected a row per image below the column names")
    return rows


def _check_file(path: Path) -> None:
    if not os.path.isfile(path):
        raise UserError(f"{path}: {'a folder, not a file' if os.path.isdir(path) else 'there is no such file'}")


def _row(table: Path, index: int) -> str:
    """Return the file and the number of a row for messages; the line of column names is row 1."""
    return f"{table}: row {index + 2}"


def _prompts(out: Path, labels: pd.Series, table: Path, classnames: Path | None, templates: Path | None) -> Prompts:
    """Return the class names and templates of the split; those of the data set's other splits must be the same."""
    existing = read_prompts(out) if os.path.isfile(out / "classnames.txt") else None
    names = existing.classnames if existing else tuple(sorted(labels.unique()))
    names = read_lines(classnames) if classnames else names
    chosen = read_templates(templates) if templates else existing.templates if existing else TEMPLATES
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{classnames or table}: class {twice!r} is listed twice; list it once")
    if existing and (names, chosen) != (existing.classnames, existing.templates):
        what = "classnames.txt" if names != existing.classnames else "zeroshot_classification_templates.txt"
        given = classnames if names != existing.classnames else templates
        raise UserError(
            f"{out / what}: another split was packed with other entries than those of {given}; use the same for both"
        )
    return Prompts(names, chosen)


def _check_type(out: Path, prompts: Prompts | None) -> None:
    file = out / "dataset_type.txt"
    kind = "retrieval" if prompts is None else "classification"
    existing = read_text(file, "delete it, or choose another folder").strip() if os.path.isfile(file) else kind
    if existing != kind:
        raise UserError(
            f"{file}: the data set is for {existing!r:.40}, but this split is for {kind!r}; choose another folder"
        )


def packed_samples(
    images: Path, table: Path, rows: pd.DataFrame, image_column: str, content: str, prompts: Prompts | None
) -> Iterator[Sample]:
    """Yield one sample per image in the order of the table, with numbered keys.

    Args:
        images: Folder that the paths in the table are relative to.
        table: CSV that the rows are from, for messages.
        rows: Its rows; the index is that of the table.
        image_column: Column of image paths.
        content: Column of classes or captions.
        prompts: Class names; None if the column holds captions.

    Raises:
        UserError: An image is missing or cannot be read, or has two classes.
    """
    numbers = {} if prompts is None else {name: i for i, name in enumerate(prompts.classnames)}
    for count, (name, group) in enumerate(rows.groupby(image_column, sort=False)):
        place, path = _row(table, group.index[0]), images / str(name)
        suffix = path.suffix.lower().removeprefix(".")
        if suffix not in IMAGE_SUFFIXES:
            raise UserError(f"{place}: {name!r} is not an image file ({', '.join(IMAGE_SUFFIXES)})")
        try:
            if not path.is_file():
                raise UserError(f"{place}: there is no image {path}")
            data = path.read_bytes()
            open_rgb(data)
        except (OSError, ImageError) as error:
            raise UserError(f"{place}: image {path} cannot be read ({reason(error)})") from error
        values = tuple(" ".join(value.split()) for value in group[content])
        key = f"s{count:07d}"
        if prompts is None:
            yield Sample(key, data, suffix, captions=values)
        elif len(values) > 1:
            raise UserError(
                f"{_row(table, group.index[1])}: image {name!r} already has a class, in row {group.index[0] + 2}"
            )
        else:
            yield Sample(key, data, suffix, label=numbers[group[content].iloc[0]])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tgems.data.pack", description=str(pack.__doc__).splitlines()[0])
    parser.add_argument("images", type=Path, help="folder that the paths in the CSV are relative to")
    parser.add_argument("table", type=Path, help="CSV that begins with a line of column names")
    parser.add_argument("out", type=Path, help="folder of the data set")
    parser.add_argument("--split", required=True, help="name of the split, such as test")
    parser.add_argument("--image-column", default="path", help="column of image paths (default: path)")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--label-column", help="column of class names, for classification")
    kind.add_argument("--caption-column", help="column of captions, for retrieval")
    parser.add_argument("--classnames", type=Path, help="file with one class per line")
    parser.add_argument("--templates", type=Path, help="file with one prompt template per line, with {c} for the class")
    parser.add_argument("--shard-size", type=int, default=1000, help="number of images per shard (default: 1000)")
    options = vars(parser.parse_args())
    with one_line_errors():
        if options["shard_size"] < 1:
            raise UserError(f"--shard-size is {options['shard_size']}, expected at least 1")
        count = pack(**options)
        print(f"{options['out'] / options['split']}: {count} images")


if __name__ == "__main__":
    main()
