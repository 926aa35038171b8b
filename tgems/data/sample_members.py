"""Read the members of a sample: its class number, its captions and its metadata.

Functions raise a `ValueError` that says what is wrong with the content; they do not name the sample.
"""

import json
import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tgems.untrusted import explain

LABEL = re.compile(rb"\s*[0-9]{1,18}\s*")


class Metadata(BaseModel):
    """Metadata of an image that is kept; other keys of a `.json` are ignored.

    Attributes:
        sources: Names of what the image was made from; see docs/adding-a-dataset.md.
        difficulty: Difficulty from 0 to 1, by thirds of which results are broken down.
        n_digits: Number of digits in an image of the demo.
        layout: Layout of an image of the demo.
    """

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    sources: str | int | list[str | int] | None = None
    difficulty: float | None = None
    n_digits: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    layout: str | None = None


def read_label(data: bytes) -> int:
    """Read a class number, counted from 0."""
    if LABEL.fullmatch(data) is None:
        raise ValueError(f"expected a class number from 0, found {data[:20].decode(errors='replace')!r}")
    return int(data)


def read_captions(data: bytes, one_caption: bool) -> tuple[str, ...]:
    """Read captions in UTF-8.

    Args:
        data: Content of the member.
        one_caption: Whether it is a single caption, instead of one caption per line.
    """
    text = data.decode("utf-8-sig")
    lines = (" ".join(text.split()),) if one_caption else text.splitlines()
    captions = tuple(line for line in lines if line.strip())
    if not captions:
        raise ValueError("it is empty")
    return captions


def read_metadata(data: bytes) -> dict:
    """Read the keys of `Metadata` from JSON; keys whose value is null are left out, and `sources` is a list of text."""
    try:
        found = Metadata.model_validate(json.loads(data)).model_dump(exclude_none=True)
    except RecursionError:
        raise ValueError("it nests too deeply") from None
    except ValidationError as error:
        raise ValueError(explain(error, Metadata)) from None
    if "sources" in found:
        named = found["sources"] if isinstance(found["sources"], list) else [found["sources"]]
        found["sources"] = [str(name) for name in named]
    json.dumps(found, ensure_ascii=False).encode()  # JSON can hold half of a surrogate pair, which UTF-8 cannot
    return found
