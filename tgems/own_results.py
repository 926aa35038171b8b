"""What became of training on one's own images: results on held-out images, and the images that were left out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tgems.data.own_packing import RECEIPT, left_out
from tgems.features.manifest import Manifest, checked
from tgems.provenance import RUN_AGAIN

METRICS = {
    "zeroshot_retrieval": {
        "text_retrieval_recall@1": "images whose first text is right",
        "image_retrieval_recall@1": "texts whose first image is right",
    },
    "self_retrieval": {"text_retrieval_recall@1": "images that are nearest to their own full encoding"},
}
SHOWN = ("full", "tgem", "saturation", "fixed")
"""Policies of the printed table, in its order."""


@dataclass(frozen=True)
class Measured:
    """A number and its 95 percent interval over images and their sources; the ends are None if they are unknown."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f} (interval unknown)"
        return f"{self.value:.3f}" + (f" ({self.low:.3f} to {self.high:.3f})" if self.low < self.high else "")


@dataclass(frozen=True)
class Difference:
    """What a T-GEM gains over the best other policy at the rate that it realises, in one metric.

    Attributes:
        metric: What the values are shares of.
        competitor: Policy that is best on validation images at that rate.
        gain: Value of the T-GEM minus that of the other.
    """

    metric: str
    competitor: str
    gain: Measured

    @property
    def verdict(self) -> str:
        """Say which of the two is better, or that the interval leaves it open."""
        if self.gain.low is not None and self.gain.low > 0:
            return "the T-GEM is better"
        if self.gain.high is not None and self.gain.high < 0:
            return "the T-GEM is worse"
        return "these images do not say which is better"


@dataclass(frozen=True)
class Reached:
    """Results of a T-GEM on held-out images, beside other policies of equal rate.

    Attributes:
        n: Number of held-out images.
        n_sources: Number of their sources: groups, and images that belong to none.
        rate: Mean rate of the T-GEM, as a share of the full encoder.
        rows: Policy, rate, and the value of each metric, by the names in `metrics`.
        metrics: What the values are shares of.
        differences: To the best other policy, by metric; none where no other policy reaches the rate.
        backbone: Name of the backbone in the run.
        fixed_block: Block of the fixed exit among the rows; None if there is none.
    """

    n: int
    n_sources: int
    rate: float
    rows: list[tuple[str, float, list[Measured]]]
    metrics: list[str]
    differences: list[Difference]
    backbone: str
    fixed_block: int | None

    @property
    def fixed_is_as_good(self) -> bool:
        """True if a fixed exit that costs no more than the T-GEM is at least as good in every metric."""
        rows = {policy: (rate, values) for policy, rate, values in self.rows}
        if "fixed" not in rows or rows["fixed"][0] > self.rate:
            return False
        return all(a.value >= b.value for a, b in zip(rows["fixed"][1], rows["tgem"][1], strict=True))


def reached(tables: Path, task: str, rate: float) -> Reached:
    """Read what the T-GEM and other policies did with held-out images.

    Args:
        tables: Folder of the run's tables, with `tradeoff.csv` and `wins.csv`.
        task: Task of the data set.
        rate: Rate target of the run.
    """
    points = pd.read_csv(tables / "tradeoff.csv", dtype={"seed": str})
    points = points[points["twin_of"].isna() & points["seed"].ne("mean")]
    metrics = METRICS[task]
    fixed = points[points["policy"].eq("fixed") & points["rate"].le(rate)]
    fixed = fixed[fixed["rate"].eq(fixed["rate"].max())]
    chosen = points[points["policy"].isin(SHOWN) & points["policy"].ne("fixed")]
    rows = []
    for policy, part in [("fixed", fixed), *chosen.groupby("policy")]:
        if len(part):
            found = part.drop_duplicates("metric").set_index("metric")
            values = [_measured(found.loc[metric], "value") for metric in metrics]
            rows.append((str(policy), float(part["rate"].iloc[0]), values))
    rows.sort(key=lambda row: SHOWN.index(row[0]))
    own = next(row for row in rows if row[0] == "tgem")
    n, n_sources = (int(points[column].iloc[0]) for column in ("n", "n_sources"))
    differences = _differences(tables / "wins.csv", metrics)
    backbone, block = points["backbone"].iloc[0], int(fixed["exit_block"].iloc[0]) if len(fixed) else None
    return Reached(n, n_sources, own[1], rows, list(metrics.values()), differences, backbone, block)


def _differences(table: Path, metrics: dict[str, str]) -> list[Difference]:
    wins = pd.read_csv(table)
    wins = wins[wins["policy"].eq("tgem") & wins["against"].eq("best") & wins["difference"].notna()]
    rows = {row["metric"]: row for _, row in wins.iterrows()}
    return [
        Difference(label, rows[metric]["competitor"], _measured(rows[metric], "difference"))
        for metric, label in metrics.items()
        if metric in rows
    ]


def _measured(row: Any, column: str) -> Measured:
    """Return a column of a row of a table, with the interval beside it."""
    low, high = (None if pd.isna(row[name]) else float(row[name]) for name in ("ci_low", "ci_high"))
    return Measured(float(row[column]), low, high)


def images_left_out(work: Path, backbone: str, name: str, dataset: dict) -> list[tuple[str, str]]:
    """Return name and reason of each image that was left out: by packing, or by the workflow from tars in place.

    Args:
        work: Folder of the run, which is finished.
        backbone: Name of the backbone.
        name: Name of the data set, and of the folder in `work` that images are packed into.
        dataset: Entry of the data set.
    """
    packed = work / name
    if dataset["source"] == f"wds:{packed.resolve()}" and (packed / RECEIPT).is_file():
        return left_out(packed)
    found = []
    for manifest in sorted((work / "results/features" / backbone / name).glob("*/manifest.json")):
        skipped = checked(Manifest, manifest, RUN_AGAIN)["skipped"]
        found += [(f"{one['shard']}::{one['key']}", one["reason"]) for one in skipped]
    return found
