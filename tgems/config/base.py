"""Base class and value types of the models of the configuration."""

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Value = TypeVar("Value")


def no_boolean(value: Any) -> Any:
    """Refuse `true` and `false` where a number is expected; pydantic would convert them to 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("expected a number, not a boolean")
    return value


def distinct(values: tuple[Value, ...]) -> tuple[Value, ...]:
    """Refuse a list in which a value is repeated."""
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise ValueError(f"{twice[0]!r} is listed twice; list it once")
    return values


def hundredths(rate: float) -> float:
    """Refuse a rate with more than two decimals, since folder names have two, and return it rounded to two."""
    if abs(rate - round(rate, 2)) > 1e-9:
        raise ValueError(f"expected at most two decimals, such as {round(rate, 2)}")
    return round(rate, 2)


Whole = Annotated[int, BeforeValidator(no_boolean), Field(le=2**53)]
Number = Annotated[float, BeforeValidator(no_boolean)]
Count = Annotated[Whole, Field(ge=1)]
"""A positive integer."""
Pairs = Annotated[Whole, Field(ge=2)]
"""A number of pairs that are contrasted with each other, hence at least two."""
NotNegative = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Rate = Annotated[Number, Field(gt=0, le=1), AfterValidator(hundredths)]
"""A mean relative cost in (0, 1] with at most two decimals."""
Name = Annotated[str, StringConstraints(pattern=NAME)]
"""A name that can be part of a file name."""
Text = Annotated[str, StringConstraints(min_length=1)]


class Section(BaseModel):
    """A mapping with a fixed set of keys.

    Text is converted to numbers, because YAML reads `1e-3` as text, and Snakemake's `--config` reads every number in a
    mapping as text.
    """

    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, frozen=True, populate_by_name=True, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_empty(cls, given: Any) -> Any:
        """Read a key without a value as an empty mapping, such as `flickr30k:` among the data sets."""
        return {} if given is None else given

    def plain(self) -> dict[str, Any]:
        """Return the section as JSON values, without keys that are None."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
