"""Read what a stranger may have written: JSON by closed models, tensors without code, files that stay in their folder.

Imports nothing else of tgems but errors; torch and safetensors inside the one function that needs them.
"""

import reprlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from tgems.errors import UserError, first_line, nearest

if TYPE_CHECKING:
    from torch import Tensor

JSON_BYTES = 16 * 2**20  # a larger file is no configuration

Size = Annotated[int, Field(ge=1, le=2**20)]
Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
HubId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?$")]
"""`NAME` or `OWNER/NAME` on the Hugging Face hub; never a path."""


class Closed(BaseModel):
    """A JSON object whose keys are all known and whose values are of the type that is said, unconverted and finite."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class HubName(Closed):
    """The name of a repository on the Hugging Face hub, for checking it."""

    repository: HubId


Model = TypeVar("Model", bound=BaseModel)


def read_json_as(model: type[Model], path: Path, way_out: str) -> Model:
    """Read a JSON file as a model of pydantic's.

    Args:
        model: What the file must be.
        path: The file.
        way_out: What the user can do about a bad file; ends the error's line.

    Raises:
        UserError: The file is missing, too large, no JSON, or says something that the model does not allow.
    """
    try:
        if Path(path).stat().st_size > JSON_BYTES:
            raise UserError(f"{path}: larger than {JSON_BYTES >> 20} MB, which no configuration is; {way_out}")
        return model.model_validate_json(Path(path).read_bytes())
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, model)}; {way_out}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {way_out}") from None


def validated(model: type[Model], value: object, where: str, way_out: str) -> Model:
    """Check a value that is already in memory, as `read_json_as` checks a file.

    Raises:
        UserError: It is not what the model allows.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, model)}; {way_out}") from None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with a JSON value, in a line without the name of its file."""
    first = error.errors(include_url=False)[0]
    kind, place = first["type"], ".".join(str(part) for part in first["loc"] if _is_key(part))
    key = str(first["loc"][-1]) if first["loc"] else ""
    inside = place.removesuffix(key).rstrip(".") or "the top level"
    if kind == "json_invalid":
        return f"not valid JSON ({first['ctx']['error']})"
    if kind == "extra_forbidden":
        return f"unknown key {reprlib.repr(key)} at {inside}; {nearest(key, _keys_at(model, first['loc'][:-1]))}"
    if kind == "missing":
        return f"key {key!r} is missing at {inside}"
    if kind == "value_error":  # said by a model of ours, which names the place itself
        return str(first["ctx"]["error"])
    said = f"{first['msg'][:1].lower()}{first['msg'][1:]}"
    return f"{place or 'it'} is {reprlib.repr(first['input'])}: {said}"


def _is_key(part: str | int) -> bool:
    """Whether a part of pydantic's location is a key or an index, not the name of an alternative's type."""
    return isinstance(part, int) or not ("[" in part or "-" in part or part in ("int", "float", "str", "bool"))


def _keys_at(model: Any, place: tuple) -> list[str]:
    """Known keys of the object at a place within a model."""
    for part in place:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        inner = [] if field is None else [a for a in (field.annotation, *get_args(field.annotation)) if _is_model(a)]
        model = inner[0] if inner else model
    return list(model.model_fields)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def file_inside(folder: Path, name: str, way_out: str) -> Path:
    """A regular file of a folder that somebody else may have filled.

    Links may lead to other places within the folder, and from a snapshot of the Hugging Face hub's cache to its blobs.

    Raises:
        UserError: It is missing, no regular file, or a link that leads out of the folder.
    """
    folder, path = Path(folder), Path(folder) / name
    if not path.is_file():
        what = "no regular file" if path.exists() or path.is_symlink() else "missing"
        raise UserError(f"{path}: {what}; {way_out}")
    roots, target = [folder.resolve()], path.resolve()
    if roots[0].parent.name == "snapshots":
        roots.append(roots[0].parent.parent / "blobs")
    if not any(target.is_relative_to(root) for root in roots):
        raise UserError(f"{path}: a link that leads out of its folder, to {target}; put a copy in its place")
    return path


def read_safetensors(path: Path, way_out: str) -> "dict[str, Tensor]":
    """Read all tensors of a safetensors file, on the CPU.

    Raises:
        UserError: The file is missing, truncated, or of another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: no whole safetensors file ({first_line(error)}); {way_out}") from error
