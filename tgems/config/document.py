"""Generate the JSON schema of the configuration and the table of keys in configs/README.md from the models.

python -m tgems.config.document [CHECKOUT]
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tgems.config.run import RunConfig
from tgems.model_keys import model_in
from tgems.outputs import write_text

SCHEMA, README = Path("workflow/schemas/config.schema.json"), Path("configs/README.md")
BEGIN, END = "<!-- Keys: written by `python -m tgems.config.document`. -->\n", "<!-- End of keys. -->\n"
NUMBERS = {int: "integer", float: "number", bool: "boolean", str: "string"}


def schema() -> str:
    """Return the JSON schema of the configuration, for editors and other programs."""
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | RunConfig.model_json_schema(by_alias=True)
    return json.dumps(whole, indent=2) + "\n"


def table() -> str:
    """Return the table of all keys with their values, defaults and meanings, in Markdown."""
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, value, default, meaning in _keys(RunConfig, ""):
        rows.append(f"| `{key}` | {value} | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def keys() -> list[str]:
    """Return all keys of the configuration, such as `heads.passes` and `backbones.*.model`."""
    return [row[0] for row in _keys(RunConfig, "")]


def with_table(readme: str) -> str:
    """Return a page with its table of keys replaced by the current one."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


def _keys(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        inner, mapping = model_in(field.annotation), get_origin(_bare(field.annotation)) is dict
        meaning = field.description or (inner.__doc__ if inner else "") or ""
        yield key, "mapping" if inner else _values(field.annotation), _default(field, inner), " ".join(meaning.split())
        if inner is not None and key != "variants":
            yield from _keys(inner, f"{key}.*." if mapping else f"{key}.")


def _default(field: FieldInfo, inner: type[BaseModel] | None) -> str:
    """Format a default for the table; the defaults of a section are shown at its keys."""
    if field.is_required():
        return "required"
    if inner is not None or field.default is None or field.default is PydanticUndefined:
        return ""
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return ", ".join(map(_number, field.default)) if isinstance(field.default, tuple) else _number(field.default)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _values(annotation: Any) -> str:
    """Describe the values that an annotation allows."""
    bare = _bare(annotation)
    origin, arguments = get_origin(bare), get_args(bare)
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " or ".join(_values(part) for part in arguments if part is not NoneType)
    if origin is tuple:
        return f"list of {_values(arguments[0])}"
    return NUMBERS[bare]


def _bare(annotation: Any) -> Any:
    """Return an annotation without its metadata."""
    return _bare(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


def main() -> None:
    """Write the schema and the table in a checkout."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    write_text(root / SCHEMA, schema())
    write_text(root / README, with_table((root / README).read_text()))


if __name__ == "__main__":
    main()
