"""Read the text files of a data set: class names, templates, and the number of shards of a split."""

import os
from pathlib import Path

from tgems.errors import UserError
from tgems.untrusted import read_text

MOST_SHARDS = 999_999
WAY_OUT = "it must hold one entry per line, in UTF-8"


def read_lines(path: Path) -> tuple[str, ...]:
    """Read one entry per line, without white space around it; empty lines at the end do not count.

    Raises:
        UserError: The file is missing, not in UTF-8 or empty, or a line between entries is empty.
    """
    lines = [line.strip() for line in _read(path, WAY_OUT).rstrip().splitlines()]
    if not lines:
        raise UserError(f"{path}: empty; {WAY_OUT}")
    if "" in lines:
        raise UserError(
            f"{path}: line {lines.index('') + 1} is empty, so that entries below it may be missing; remove or fill it"
        )
    return tuple(lines)


def read_templates(path: Path) -> tuple[str, ...]:
    """Read prompt templates, one per line.

    Raises:
        UserError: As in `read_lines`, or a template lacks `{c}`, or has other braces, which clip_benchmark would try to
            fill.
    """
    templates = read_lines(path)
    for number, template in enumerate(templates, 1):
        place = f"{path}: line {number}, {template!r:.60}, has"
        if "{c}" not in template:
            raise UserError(f"{place} no {{c}}; write it where the class name belongs")
        if set("{}") & set(template.replace("{c}", "")):
            raise UserError(f"{place} a brace that is not part of {{c}}; remove it")
    return templates


def read_shard_count(path: Path, way_out: str) -> int:
    """Read a number of shards, at least 1.

    Raises:
        UserError: The file cannot be read, or holds something else.
    """
    text = _read(path, way_out).strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and 0 < int(text) <= MOST_SHARDS):
        raise UserError(f"{path}: {text!r:.40} is not a number of shards from 1 to {MOST_SHARDS}; {way_out}")
    return int(text)


def _read(path: Path, way_out: str) -> str:
    if not os.path.isfile(path):
        raise UserError(f"{path}: {'a folder, not a file' if os.path.isdir(path) else 'missing'}; {way_out}")
    return read_text(path, way_out)
