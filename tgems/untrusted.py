"""Safe readers for untrusted files: JSON, safetensors, text, tables, and files that may be links.

Functions that need torch, safetensors or pandas import them when called.
"""

import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from tgems.errors import UserError, first_line, nearest, reading
from tgems.model_keys import keys_at

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor

TEXT_BYTES = 16 * 2**20
"""Largest size of a JSON or text file that is read; no configuration and no list of classes comes near it."""
HUB_ID = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?$"

Size = Annotated[int, Field(ge=1, le=2**20)]
Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
HubId = Annotated[str, StringConstraints(pattern=HUB_ID)]
"""The id of a repository on the Hugging Face hub, `NAME` or `OWNER/NAME`. The pattern excludes paths and URLs."""


class Closed(BaseModel):
    """A JSON object with a fixed set of keys.

    Values must already have the declared type, since nothing is converted, and numbers must be finite.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


Model = TypeVar("Model", bound=BaseModel)


def read_json_as(model: type[Model], path: Path, way_out: str) -> Model:
    """Read a JSON file and validate it with a pydantic model.

    Args:
        model: The model that the content must satisfy.
        path: The file.
        way_out: What the user can do about a bad file, as the end of error messages.

    Raises:
        UserError: The file is missing, too large, not valid JSON, or does not satisfy the model.
    """
    try:
        if Path(path).stat().st_size > TEXT_BYTES:
            raise UserError(f"{path}: larger than {TEXT_BYTES >> 20} MB, too large for a configuration; {way_out}")
        return model.model_validate_json(Path(path).read_bytes())
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, model)}; {way_out}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {way_out}") from None


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form of a repository id on the Hugging Face hub."""
    return re.fullmatch(HUB_ID, name) is not None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Describe the first error that pydantic found in one line, which does not name the file."""
    first: Any = error.errors(include_url=False)[0]
    kind, place = first["type"], ".".join(str(part) for part in first["loc"] if _is_key(part))
    key = str(first["loc"][-1]) if first["loc"] else ""
    inside = place.removesuffix(key).rstrip(".") or "the top level"
    if kind == "json_invalid":
        return f"not valid JSON ({first['ctx']['error']})"
    if kind == "extra_forbidden":
        return f"unknown key {reprlib.repr(key)} at {inside}; {nearest(key, keys_at(model, first['loc'][:-1]))}"
    if kind == "missing":
        return f"key {key!r} is missing at {inside}"
    if kind == "value_error":  # raised by a validator of tgems, which names the key itself
        return str(first["ctx"]["error"])
    said = f"{first['msg'][:1].lower()}{first['msg'][1:]}"
    return f"{place or 'it'} is {reprlib.repr(first['input'])}: {said}"


def _is_key(part: str | int) -> bool:
    """Return whether a part of a pydantic location is a key or an index, rather than the name of a union member."""
    return isinstance(part, int) or not ("[" in part or "-" in part or part in ("int", "float", "str", "bool"))


def file_inside(folder: Path, name: str, way_out: str) -> Path:
    """Return the path of a file in a folder whose content may be untrusted.

    The file may be a symbolic link to another file in the folder or, in a snapshot of the Hugging Face cache, to one of
    the cache's blobs.

    Raises:
        UserError: The file is missing, is not a regular file, or links to a file outside the folder.
    """
    folder, path = Path(folder), Path(folder) / name
    with reading(path, way_out):
        if not path.is_file():
            what = "not a regular file" if path.exists() or path.is_symlink() else "missing"
            raise UserError(f"{path}: {what}; {way_out}")
        roots, target = [folder.resolve()], path.resolve()
    if roots[0].parent.name == "snapshots":
        roots.append(roots[0].parent.parent / "blobs")
    if not any(target.is_relative_to(root) for root in roots):
        raise UserError(f"{path}: a link to {target}, outside its folder; replace it with a copy")
    return path


def read_safetensors(path: Path, way_out: str) -> "dict[str, Tensor]":
    """Read all tensors of a safetensors file to the CPU.

    Raises:
        UserError: The file is missing or truncated, or has another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a complete safetensors file ({first_line(error)}); {way_out}") from error


def read_text(path: Path, way_out: str) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        UserError: The file is missing, cannot be read, is too large, or is not UTF-8.
    """
    with reading(path, way_out, UnicodeDecodeError):
        if Path(path).stat().st_size > TEXT_BYTES:
            raise UserError(f"{path}: larger than {TEXT_BYTES >> 20} MB; {way_out}")
        return Path(path).read_text(encoding="utf-8-sig")


def read_table(
    path: Path, columns: Sequence[str], way_out: str, numbers: Sequence[str] = (), **options: Any
) -> "DataFrame":
    """Read a CSV or Parquet file.

    Args:
        path: A file whose name ends in `.csv` or `.parquet`.
        columns: Columns that the table must have.
        way_out: What the user can do about a bad file, as the end of error messages.
        numbers: Further columns that the table must have, with only numbers or empty cells.
        options: Options of pandas' reader.

    Raises:
        UserError: The file is missing, truncated, empty or in another format, or a column is missing or not numeric.
    """
    import pandas as pd

    path = Path(path)
    with reading(path, way_out):
        if not path.is_file():
            raise UserError(f"{path}: {'a folder, not a file' if path.is_dir() else 'missing'}; {way_out}")
    if path.suffix == ".csv":
        with reading(path, way_out, ValueError):  # pandas' errors on CSV files, and bytes that are not text
            table = pd.read_csv(path, **options)
    else:
        from pyarrow import ArrowException

        with reading(path, way_out, ArrowException, ValueError):
            table = pd.read_parquet(path, **options)
    if missing := [column for column in (*columns, *numbers) if column not in table]:
        raise UserError(f"{path}: has no column {missing[0]!r}; {way_out}")
    if table.empty:
        raise UserError(f"{path}: has no rows; {way_out}")
    if words := [column for column in numbers if not pd.api.types.is_numeric_dtype(table[column])]:
        raise UserError(f"{path}: column {words[0]!r} holds more than numbers; {way_out}")
    return table
