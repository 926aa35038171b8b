"""The config.json of a saved T-GEM as a closed model. Imports neither torch nor open_clip.

The folder of a T-GEM may come from a stranger, so nothing in it is ever run: a policy is one of tgems' own or a class
in a file that the user has and trusts, and a tokenizer is a repository id on the Hugging Face hub unless the user
chooses a folder.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, StringConstraints, ValidationError, model_validator

from tgems.architectures.open_clip_config import ModelConfig
from tgems.costs.saved_costs import SavedCosts
from tgems.errors import UserError, reading
from tgems.exits.architecture import Architecture, HeadsArchitecture
from tgems.policies.declarations import declared
from tgems.untrusted import Closed, Digest, Size, explain, file_inside, read_json_as

FORMAT, FORMAT_VERSION = "tgems", 4
FILES = CONFIG, TENSORS, CARD = "config.json", "model.safetensors", "README.md"
WAY_OUT = "export it with `tgems export`, or download it again"
Text = Annotated[str, StringConstraints(max_length=4096)]
Rate = Annotated[float, Field(ge=0, le=1e3)]
Exit = Annotated[int, Field(ge=0)]


class BackboneEntry(Closed):
    """The backbone's entry in the configuration of the run (configs/README.md)."""

    model: Text | None = None
    pretrained: Annotated[Text, StringConstraints(min_length=1)]
    source: Text | None = None
    exits: Literal["all", "every_other", "last_half"] | tuple[Size, ...] = "all"
    tokenizer: Text | None = None
    token_merging: Annotated[int, Field(ge=0, le=2**16)] = 0

    @model_validator(mode="after")
    def _names_are_printable(self) -> Self:
        for name in (self.model, self.pretrained, self.tokenizer):
            if not (name or "").isprintable():
                raise ValueError(f"backbone: {name!r} holds control characters")
        return self


class ExpectedRate(Closed):
    """See `tgems.runtime.calibration.Forecast`."""

    rate: Rate
    low: Rate
    high: Rate


class ExitsByTime(Closed):
    """Exits that were chosen by time: images per call, the exits (0-based), and the expected speed-up."""

    batch_size: Size
    asked: tuple[Exit, ...]
    speedup: Annotated[float, Field(gt=0)]


class MadeOfOwnImages(Closed):
    """How `tgems calibrate` made thresholds; `names` is a digest of the images' names, `texts` the number of texts."""

    date: Annotated[Text, StringConstraints(pattern=r"^\d{4}-\d\d-\d\d$")]
    images: Size
    names: Digest | None
    texts: Size | None
    rate: Annotated[float, Field(gt=0, le=1)] | None
    keep: Annotated[float, Field(gt=0, lt=1)] | None
    confidence: Annotated[float, Field(gt=0, lt=1)] | None
    upcoming: Annotated[int, Field(ge=1)]
    expected: ExpectedRate
    seed: int
    by_time: ExitsByTime | None = None


class CalibrationConfig(Closed):
    """See `tgems.runtime.early_exit.Calibration`."""

    thresholds: tuple[float, ...] | None
    visited: tuple[Exit, ...] | None
    rate_validation: Rate
    spread: Annotated[float, Field(ge=0)] | None = None
    made: MadeOfOwnImages | None = None


class Result(Closed):
    """A metric on test images, and its value with the full encoder."""

    dataset: Text
    calibration: Text
    metric: Text
    value: float
    full: float
    rate: Rate


class About(Closed):
    """Information from the T-GEM's author: `results`, and any other key whose value is a number or a text."""

    model_config = Closed.model_config | {"extra": "allow"}
    __pydantic_extra__: dict[str, Text | int | float | bool | None]
    results: tuple[Result, ...] = ()

    def as_dict(self) -> dict:
        """Return the mapping that was saved; `results` comes last, and only if it was saved."""
        results = {"results": [row.model_dump() for row in self.results]}
        return dict(self.model_extra or {}) | (results if "results" in self.model_fields_set else {})


class SavedConfig(Closed):
    """The whole of config.json (docs/using-a-t-gem.md#save-load-share)."""

    format: Literal["tgems"]
    format_version: Literal[4]
    backbone: BackboneEntry
    architecture: ModelConfig
    weights: Digest
    preprocess: Text
    policy: Text
    policy_class: Annotated[Text, StringConstraints(pattern=r"^[^/:\\]+\.py:[A-Za-z_][A-Za-z0-9_]*$")] | None
    policy_digest: Digest | None
    rate_target: Annotated[float, Field(gt=0, le=1)] | None
    costs: SavedCosts
    rates: tuple[Rate, ...]
    modules: dict[Literal["heads", "gates"], Architecture]
    calibrations: Annotated[dict[Text, CalibrationConfig], Field(min_length=1)]
    about: About
    model_digest: Digest
    recorded: dict[Text, JsonValue]

    @model_validator(mode="after")
    def _policy_can_run(self) -> Self:
        if (self.policy_class is None) != (self.policy_digest is None):
            raise ValueError("policy_class and policy_digest belong together")
        if self.policy_class is not None:
            return self
        try:
            own = declared(self.policy) if ":" not in self.policy else {}
        except UserError:
            own = {}
        if not own.get("runs"):
            raise ValueError(f"policy {self.policy!r} is not one of tgems' own policies that can be run")
        kinds = {name: module.kind for name, module in self.modules.items()}
        heads = () if own["frozen_head"] else ("heads",)
        gates = () if own["gates"] is None else (own["gates"], f"joint_{own['gates']}")
        if kinds.get("heads") not in (heads or (None,)) or kinds.get("gates") not in (gates or (None,)):
            raise ValueError(f"modules {kinds} are not those of policy {self.policy!r}")
        return self

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        before_last = len(self.costs.blocks) - 1
        for name, module in self.modules.items():
            if (name == "heads") != (module.kind == "heads"):
                raise ValueError(f"modules.{name} has kind {module.kind!r}")
            found = {"n_exits": module.n_exits, "summary_dim": module.summary_dim}
            if found != {"n_exits": before_last, "summary_dim": self.costs.summary_dim}:
                raise ValueError(f"modules.{name} {found} do not fit costs of {before_last} exits before the last, "
                                 f"summary_dim {self.costs.summary_dim}")  # fmt: skip
        heads = self.modules.get("heads")
        if isinstance(heads, HeadsArchitecture) and heads.embed_dim != self.costs.embed_dim:
            raise ValueError("modules.heads.embed_dim and costs.embed_dim differ")
        if self.architecture.embed_dim != self.costs.embed_dim:
            raise ValueError("architecture.embed_dim and costs.embed_dim differ")
        if len(self.rates) != before_last + 1:
            raise ValueError(f"rates has {len(self.rates)} numbers for {before_last + 1} exits")
        for name, point in self.calibrations.items():
            _check_calibration(name, point, before_last, self.policy in ("fixed", "fixed_raw"))
        return self


def _check_calibration(name: str, point: CalibrationConfig, before_last: int, fixed: bool) -> None:
    """Check an operating point: a fixed exit has no threshold, and other policies have one per visited exit."""
    visited = range(before_last) if point.visited is None else point.visited
    if not visited or any(a >= b for a, b in pairwise(visited)) or visited[-1] >= before_last:
        raise ValueError(f"calibrations.{name}.visited {point.visited} are not some of {before_last} exits, in order")
    if fixed and (point.thresholds is not None or len(visited) != 1):
        raise ValueError(f"calibrations.{name}: thresholds {point.thresholds} of a fixed exit at exits {list(visited)}")
    if not fixed and len(point.thresholds or ()) != len(visited):
        raise ValueError(f"calibrations.{name}: thresholds {point.thresholds} at exits {list(visited)}")


class _Header(Closed):
    """The two keys that identify the format; other keys are ignored."""

    model_config = Closed.model_config | {"extra": "ignore"}
    format: JsonValue = None
    format_version: JsonValue = None


def read_config(folder: Path) -> SavedConfig:
    """Read and check config.json.

    Raises:
        UserError: It is missing, has another format or version, or does not describe a T-GEM.
    """
    folder = Path(folder)
    with reading(folder, WAY_OUT):
        for needed in (CONFIG, TENSORS):
            if not (folder / needed).exists():
                raise UserError(f"{folder}: not a saved T-GEM, {needed} is missing; {WAY_OUT}")
    path = file_inside(folder, CONFIG, WAY_OUT)
    header = read_json_as(_Header, path, WAY_OUT)
    if header.format != FORMAT:
        raise UserError(f"{path}: format is {header.format!r}, not {FORMAT!r}: not a saved T-GEM; {WAY_OUT}")
    if header.format_version != FORMAT_VERSION:
        raise UserError(
            f"{path}: format version {header.format_version!r}, this tgems reads {FORMAT_VERSION}; "
            "install a newer tgems, or export the T-GEM again"
        )
    return read_json_as(SavedConfig, path, WAY_OUT)


def check_config(config: dict, folder: Path) -> None:
    """Refuse to save a configuration that `read_config` would refuse to read.

    Raises:
        UserError: It holds a key or a value that is not allowed.
    """
    try:
        SavedConfig.model_validate_json(json.dumps(config))
    except ValidationError as error:
        raise UserError(f"{folder}: this T-GEM cannot be saved: {explain(error, SavedConfig)}") from None


def is_saved(folder: Path) -> bool:
    """Return whether a folder holds a T-GEM of any version, complete or not."""
    try:
        return read_json_as(_Header, Path(folder) / CONFIG, WAY_OUT).format == FORMAT
    except UserError:
        return False
