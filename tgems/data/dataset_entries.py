"""Entries of data sets in a configuration: known names, roles of splits, and slices of their shards."""

import posixpath
import re
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path

import yaml

from tgems.errors import UserError, nearest

DEMO_DATASETS = ("scenes", "digits", "colors", "relations", "handwriting")
ROLES = ("train", "validation", "test")
NONE = "none"
NOT_KEYS = ("licence", "images", "prompts", "kilobytes")
"""Facts about a known data set that are no keys of its entry."""
PART = re.compile(r"(?P<folder>[^\[\]]*)(\[(?P<start>\d*):(?P<end>\d*)\])?")


@dataclass(frozen=True)
class Part:
    """The shards of a split folder from `start` up to `end` (exclusive; None for all that follow)."""

    folder: str
    start: int = 0
    end: int | None = None

    def overlaps(self, other: "Part") -> bool:
        """Return whether a shard may be in both parts."""
        ends = [part.end for part in (self, other) if part.end is not None]
        return self.folder == other.folder and (not ends or max(self.start, other.start) < min(ends))

    def pick(self, shards: list, place: str) -> list:
        """Return the shards of this part.

        Args:
            shards: All shards of the split folder, in order.
            place: Name of the folder or receipt that lists them, for the message.

        Raises:
            UserError: There are too few shards.
        """
        last = self.start if self.end is None else self.end - 1
        if last >= len(shards):
            raise UserError(
                f"{place} holds {len(shards)} shards, but splits names shard {last}; shards are counted from 0"
            )
        return shards[self.start : self.end]


def parse_part(text: str, place: str) -> Part:
    """Parse a part of a data set, written as `FOLDER` or `FOLDER[a:b]`.

    Args:
        text: Value in the configuration.
        place: Key of the configuration, for the message.

    Raises:
        UserError: The text has neither form, or describes no shard.
    """
    match = PART.fullmatch(text)
    if match is None:
        raise UserError(
            f"config: {place} is {text!r}, expected a split folder, or a slice of its shards such as 'train[:2]'"
        )
    folder = posixpath.normpath(match["folder"]) if match["folder"] else ""
    if set("{}") & set(folder):
        raise UserError(f"config: {place} is {text!r}, but Snakemake reads braces as wildcards; rename the folder")
    if folder.startswith(("/", "..")):
        raise UserError(f"config: {place} is {text!r}, expected a folder inside the data set's source")
    start, end = int(match["start"] or 0), int(match["end"]) if match["end"] else None
    if end is not None and end <= start:
        raise UserError(f"config: {place} is {text!r}, which holds no shard; expected bounds such as 'train[2:5]'")
    return Part("" if folder == "." else folder, start, end)


def evaluates_a_part(entry: dict) -> bool:
    """Return whether a complete entry names a slice of a split's shards for `test`, instead of a whole split."""
    split = entry["splits"]["test"]
    part = parse_part(split, "splits.test")
    return split != NONE and part != Part(part.folder)


@cache
def given() -> dict[str, dict]:
    """Return the data sets that are known by name: their source, revision, task, splits, images and licence."""
    return yaml.safe_load(Path(__file__).with_name("given.yaml").read_text())


def licence_of(source: str) -> str | None:
    """Return the licence or terms of a known data set by its source, or None."""
    return next((entry["licence"] for entry in given().values() if entry["source"] == source), None)


def complete_entries(datasets: dict[str, dict], trained: str, calibration: list[str]) -> dict[str, dict]:
    """Complete the entries of data sets with what their names imply and with defaults, and check them.

    Args:
        datasets: Entries by name, valid according to the schema.
        trained: Name of the data set that exit modules are trained on.
        calibration: Calibrations of entries that do not set their own.

    Returns:
        New, complete entries.

    Raises:
        UserError: An entry is not valid; the message names it.
    """
    return {name: _complete(name, entry, name == trained, calibration) for name, entry in datasets.items()}


def _complete(name: str, entry: dict, trained: bool, calibration: list[str]) -> dict:
    place = f"config: datasets.{name}"
    if "source" not in entry:
        if name not in given():
            raise UserError(f"{place} has no source, and {name!r} is not a known name; {nearest(name, given())}")
        known = {key: value for key, value in given()[name].items() if key not in NOT_KEYS}
        entry = known | entry | {"splits": known["splits"] | entry["splits"]}
    if "task" not in entry:
        raise UserError(f"{place} has no task; set task: zeroshot_classification, zeroshot_retrieval or self_retrieval")
    scheme = entry["source"].partition(":")[0]
    if scheme == "hub":
        entry = {"revision": "main", "root": f"data/{name}"} | entry
    for key in ("revision", "root"):
        if scheme != "hub" and key in entry:
            raise UserError(f"{place}.{key} is for source 'hub:ORG/REPO' only, but source is {entry['source']!r}")
    if scheme == "tars" and entry["task"] == "zeroshot_classification":
        raise UserError(f"{place}.task is {entry['task']!r}, but source 'tars:FOLDER' holds captioned images")
    if scheme in ("wds", "tars") and set("{}") & set(entry["source"]):
        raise UserError(
            f"{place}.source is {entry['source']!r}, but Snakemake reads braces as wildcards; rename the folder, "
            "or link to it under another name"
        )
    own_calibration = entry.get("calibration")
    splits = _complete_splits(entry["splits"], trained)
    entry = entry | {"splits": splits, "calibration": own_calibration or calibration}
    if scheme == "demo":
        _check_demo(name, entry)
    _check_splits(name, splits, trained)
    if splits["validation"] == NONE and "in_domain" in (own_calibration or ["in_domain"]):
        raise UserError(
            f"{place} has no validation images (splits.validation is 'none'); set calibration: [transfer] there, "
            "or name a part of train"
        )
    if trained and "in_domain" not in entry["calibration"]:
        raise UserError(
            f"{place}.calibration is {entry['calibration']}, but thresholds are fitted on the validation images of the "
            "training data set; add 'in_domain'"
        )
    return entry


def _complete_splits(splits: dict[str, str], trained: bool) -> dict[str, str]:
    """Return the splits of all roles in order; `train` only if it is set, or if the data set is trained on."""
    roles = ROLES if trained or "train" in splits else ROLES[1:]
    return {role: splits.get(role, role) for role in roles}


def _check_splits(name: str, splits: dict[str, str], trained: bool) -> None:
    place = f"datasets.{name}.splits"
    needed = {"train", "validation"} if trained else {"train", "test"}
    for role, split in splits.items():
        if split == NONE and role in needed:
            why = "the training data set needs" if trained else "only the training data set can do without"
            raise UserError(f"config: {place}.{role} is 'none', but {why} {role} images")
    parts = {role: parse_part(split, f"{place}.{role}") for role, split in splits.items() if split != NONE}
    for first, second in combinations(parts, 2):
        if parts[first].overlaps(parts[second]):
            raise UserError(
                f"config: {place}: {first} {splits[first]!r} and {second} {splits[second]!r} share shards; "
                "give each its own, such as 'train[2:]' and 'train[:2]'"
            )


def _check_demo(name: str, entry: dict) -> None:
    place = f"config: datasets.{name}"
    if name not in DEMO_DATASETS:
        raise UserError(
            f"{place} has source 'demo', but there is no such demo data set; {nearest(name, DEMO_DATASETS)}"
        )
    if (name == "scenes") != (entry["task"] == "zeroshot_retrieval"):
        raise UserError(f"{place}.task is {entry['task']!r}, which the demo set {name!r} does not support")
    for role, split in entry["splits"].items():
        if split not in (role, NONE):
            raise UserError(f"{place}.splits.{role} is {split!r}, but a demo set only has {role!r} there")
