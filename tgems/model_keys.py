"""Inspect nested pydantic models: the model of an annotation, and the keys that are allowed at a location."""

from collections.abc import Iterable
from typing import Any, get_args, get_origin

from pydantic import BaseModel


def model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model in an annotation, which may be in a union, or the type of the entries of a mapping or list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := model_in(part))), None)


def keys_at(model: type[BaseModel], place: Iterable[str | int]) -> list[str]:
    """Return the keys that the mapping at a location in a model may have.

    Args:
        model: The outermost model.
        place: Keys and indices that lead to the mapping.
    """
    annotation: Any = model
    for part in place:
        inner = model_in(annotation)
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        elif inner is not None and part in inner.model_fields:
            annotation = inner.model_fields[part].annotation
    found = model_in(annotation)
    return [] if found is None else [field.alias or name for name, field in found.model_fields.items()]
