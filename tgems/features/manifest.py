"""The JSON files of the feature cache: `shard.json` of a shard, and `manifest.json` of a split. Checked when read."""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, JsonValue, ValidationError, model_validator

from tgems.errors import UserError
from tgems.provenance import read_json
from tgems.untrusted import Closed, Digest, Size, explain

Count = Annotated[int, Field(ge=0)]
Rows = Annotated[list[Size], Field(min_length=1)]


class Skipped(Closed):
    """A sample that was left out, and why."""

    key: str
    reason: str


class SkippedInShard(Skipped):
    """A sample that was left out, with the file name of its shard."""

    shard: str


class Part(Closed):
    """Features of a shard: number of images, rows of each file of features, and digests and sizes of all files."""

    n: Size
    rows: Rows
    files: dict[str, Digest]
    bytes: dict[str, Count]

    @model_validator(mode="after")
    def _rows_of_all_images(self) -> Self:
        features = {f"{i:03}.safetensors" for i in range(len(self.rows))}
        if sum(self.rows) != self.n or not features <= self.files.keys() or self.files.keys() != self.bytes.keys():
            raise ValueError(f"rows {self.rows!r:.60} do not fit {self.n} images and the files")
        return self


class ShardRecord(Part):
    """The content of `shard.json`."""

    fingerprint: dict[str, JsonValue]
    tar: str
    skipped: list[Skipped]
    recorded: dict[str, JsonValue]


class Recorded(Closed):
    """Facts that are recorded for information; features do not depend on them."""

    backbone: dict[str, JsonValue]
    dtype: str
    device: str
    batch_size: int
    versions: dict[str, str]
    commit: str


class Manifest(Closed):
    """The content of `manifest.json`, which `tgems.features.extract` writes."""

    schema_version: int
    weights: Digest
    preprocess: str
    logit_scale: float
    logit_bias: float | None
    blocks: Annotated[list[Size], Field(min_length=2)]
    widths: list[Size]
    grids: list[Size]
    precision: str
    shards: dict[str, str]
    parts: Annotated[dict[str, Part], Field(min_length=1)]
    prompts: Digest
    n: Size
    skipped: list[SkippedInShard]
    recorded: Recorded
    files: dict[str, Digest]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(a >= b for a, b in pairwise(self.blocks)):
            raise ValueError(f"blocks {self.blocks} do not ascend")
        if any(a >= b for a, b in pairwise(self.grids)):
            raise ValueError(f"grids {self.grids} do not ascend")
        if len(self.widths) != len(self.blocks) - 1:
            raise ValueError(f"widths has {len(self.widths)} numbers for {len(self.blocks) - 1} exits before the last")
        if self.n != sum(part.n for part in self.parts.values()):
            raise ValueError(f"n is {self.n}, but its parts have other numbers of images")
        return self


def checked(model: type[Closed], path: Path, way_out: str) -> dict[str, Any]:
    """Read one of these files, check it against its model, and return the plain content.

    Raises:
        UserError: The file is missing or damaged; the message names the first key that is wrong.
    """
    value = read_json(path)
    try:
        model.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, model)}; {way_out}") from None
    return value
