"""Validate a configuration strictly, with one-line errors."""

import reprlib
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tgems.config.run import RunConfig
from tgems.errors import UserError, nearest
from tgems.model_keys import keys_at


def parse_config(config: dict) -> RunConfig:
    """Validate a configuration against the models, without reading the files that it refers to.

    Args:
        config: Configuration as read from YAML.

    Raises:
        UserError: The configuration is not valid; the message names the key, the value and what was expected.
    """
    try:
        return RunConfig.model_validate(config)
    except ValidationError as error:
        raise UserError(f"config: {_explain(error)}") from None


def refuse_duplicate_keys(files: Iterable[Path]) -> None:
    """Refuse YAML files in which a mapping has a duplicate key, of which YAML readers silently keep the last.

    Raises:
        UserError: There is a duplicate key; the message names the file, the line and the key.
    """
    for file in files:
        loader = yaml.SafeLoader(Path(file).read_text())
        try:
            _refuse_in(loader.get_single_node(), file)
        finally:
            loader.dispose()


def _refuse_in(node: yaml.Node | None, file: Path) -> None:
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _refuse_in(child, file)
    if isinstance(node, yaml.MappingNode):
        seen: dict[Hashable, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen and isinstance(key.value, str):
                first = seen[key.value]
                raise UserError(f"{file}, line {line}: key {key.value!r} is also in line {first}; keep one of them")
            if isinstance(key.value, str):
                seen[key.value] = line
            _refuse_in(value, file)


def _explain(error: ValidationError) -> str:
    """Describe the most helpful of pydantic's errors: an unknown key, or else the most deeply nested one."""
    problems: list[Any] = list(error.errors(include_url=False))
    found = [(one, _keys_of(one)) for one in problems]
    first, loc = min(found, key=lambda pair: (pair[0]["type"] != "extra_forbidden", -len(pair[1])))
    kind, given = first["type"], reprlib.repr(first["input"])
    place = ".".join(map(str, loc)) or "the top level"
    parent = ".".join(map(str, loc[:-1])) or "the top level"
    if kind == "extra_forbidden":
        return f"unknown key {str(loc[-1])!r} at {parent}; {nearest(loc[-1], keys_at(RunConfig, loc[:-1]))}"
    if kind == "missing":
        return f"key {loc[-1]!r} is missing at {parent}; add it"
    if kind == "literal_error":
        known = [word.strip(" '") for word in first["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return f"{place} is {given}, expected one of {', '.join(known)}; {nearest(first['input'], known)}"
    if kind == "value_error":
        return f"{place} is {given}: {first['ctx']['error']}" if loc else str(first["ctx"]["error"])
    if kind == "too_short":
        return f"{place} is empty; add at least one"
    if kind in ("model_type", "dict_type"):
        return f"{place} is {given}, expected a mapping of keys to values"
    if kind == "tuple_type":
        return f"{place} is {given}, expected a list, such as [{first['input']}]"
    if kind == "string_pattern_mismatch":
        return f"{place}: {given} is not allowed here; expected text of the form {first['ctx']['pattern']}"
    said = first["msg"].replace("Input should", "it should")
    return f"{place} is {given}; {said[:1].lower()}{said[1:]}"


def _keys_of(problem: Any) -> list[str | int]:
    """Return the keys and indices that lead to an error, without pydantic's own parts such as `tuple[...]`."""
    *inner, last = problem["loc"] or ("[",)
    kept = [part for part in inner if isinstance(part, int) or "[" not in part]
    unknown = problem["type"] == "extra_forbidden"
    return [*kept, last] if unknown or isinstance(last, int) or "[" not in last else kept
