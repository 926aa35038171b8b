"""Pick test images of every exit from shards, as PNG thumbnails, to show which images leave early and which late."""

import io

import numpy as np
import pandas as pd

from tgems.data.decoding import open_rgb
from tgems.data.tar_index import Entry, read_image
from tgems.data.webdataset import SplitFiles, read_prompts
from tgems.evaluation.operating_points import Row
from tgems.features.cache import FeatureSet
from tgems.policies.interface import Policy

PER_EXIT = 4
THUMBNAIL = 64


def pick_row(rows: list[Row], calibration: str, policies: dict[str, Policy]) -> Row | None:
    """Pick the T-GEM row to show: bank-guided if there is one, the middle rate target, the first seed."""
    contenders = [name for name, policy in policies.items() if policy.contender]
    for policy in sorted(contenders, key=lambda name: not policies[name].needs_bank):
        own = [r for r in rows if r.about["policy"] == policy and r.about["calibration"] == calibration]
        own = [r for r in own if r.about["score_normalisation"] == "none" and r.exits is not None]
        if own:
            targets = sorted({r.about["rate_target"] for r in own})
            return next(r for r in own if r.about["rate_target"] == targets[len(targets) // 2])
    return None


def gallery(
    row: Row | None, features: FeatureSet, blocks: tuple[int, ...], split: SplitFiles, seed: int = 0
) -> pd.DataFrame:
    """Draw images of every exit at random, whether or not they were right.

    Args:
        row: Operating point to show; None gives an empty table.
        features: Features of the test images; samples that were skipped there are not drawn.
        blocks: Block of each exit.
        split: Shards and prompts of the test split.
        seed: Seed of the draw.

    Returns:
        One row per image: exit_block, key, image (PNG bytes), text (a caption, or the class), difficulty, policy,
        rate_target.
    """
    columns = ["exit_block", "key", "image", "text", "difficulty", "policy", "rate_target"]
    if row is None:
        return pd.DataFrame(columns=columns)
    keys = features.samples["key"].tolist()
    skipped = {(one["shard"], one["key"]) for one in features.manifest["skipped"]}
    names = read_prompts(split.prompts).classnames if features.captions is None else None
    order, taken = np.random.default_rng(seed).permutation(len(keys)), np.asarray(row.exits)
    wanted: dict[str, int] = {}
    for exit_, block in enumerate(blocks):
        wanted |= {keys[i]: block for i in order[taken[order] == exit_][:PER_EXIT]}
    found = [
        (
            wanted[entry.key],
            entry.key,
            _thumbnail(read_image(path, entry)),
            _text(entry, names),
            entry.metadata.get("difficulty", np.nan),
            row.about["policy"],
            row.about["rate_target"],
        )
        for path in split.shards
        for entry in split.index(path)
        if entry.key in wanted and (path.name, entry.key) not in skipped
    ]
    return pd.DataFrame(found, columns=columns).sort_values(["exit_block", "key"], ignore_index=True)


def _text(entry: Entry, classes: tuple[str, ...] | None) -> str:
    """Return the text of an image: its class or its first caption, or its key if it has neither."""
    if classes is not None and entry.label is not None:
        return classes[entry.label]
    return entry.captions[0] if entry.captions else entry.key


def _thumbnail(data: bytes) -> bytes:
    buffer = io.BytesIO()
    open_rgb(data).resize((THUMBNAIL, THUMBNAIL)).save(buffer, "PNG")
    return buffer.getvalue()
