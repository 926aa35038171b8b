"""Outcomes of every image at the operating points of a run, by which backbones are compared on the same images.

The evaluation of one backbone, variant and data set writes two files. `outcomes.parquet` has one row per operating
point, metric and seed, with the hits of every image. `image_sources.parquet` has one row per image: its key, its
sources and the number of its captions.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tgems.errors import UserError
from tgems.evaluation.estimates import HEADLINE, Point, direction_of, means, measure, recall_of_captions
from tgems.evaluation.uncertainty import Estimate, SharedSources
from tgems.features.cache import FeatureSet
from tgems.policies.interface import Policy
from tgems.provenance import RUN_AGAIN

SETTING = ["policy", "rate_target", "exit_block"]
"""Columns that identify an operating point of one backbone and variant."""


def realisable(points: Sequence[Point], policies: dict[str, Policy], calibration: str) -> list[Point]:
    """Return the points at which an encoder can be run: those of the full encoder, of fixed exits, and of policies that
    decide image by image.

    Oracles, exits that are drawn at random or shuffled, and mixes of fixed exits are left out, and so are normalised
    scores.

    Args:
        points: Operating points.
        policies: Policies by name.
        calibration: Source of the thresholds to keep.
    """

    def kept(about: dict) -> bool:
        policy = policies.get(about["policy"])
        if policy is None or about["score_normalisation"] != "none":
            return False
        return (policy.runs or policy.name == "full") and about.get("calibration", calibration) == calibration

    return [point for point in points if kept(point.about)]


def outcomes(points: Sequence[Point]) -> pd.DataFrame:
    """Tabulate the hits of every image `[n]` uint16 at each point, for each seed and headline metric."""
    return pd.DataFrame(
        [
            _setting(point, metric) | {"seed": row.about.get("seed"), "hits": row.hits[metric].astype("uint16")}
            for point in points
            for row in point.rows
            for metric in HEADLINE
            if metric in row.hits
        ],
        columns=[*SETTING, "metric", "direction", "seed", "hits"],
    )


def mean_outcomes(points: Sequence[Point], features: FeatureSet) -> pd.DataFrame:
    """Tabulate the mean over seeds of rate and value at each point, for each headline metric."""
    return pd.DataFrame(
        [
            _setting(point, metric)
            | {"rate": point.rates.values.mean(), "value": measure([point], metric, features).values.mean()}
            for point in points
            for metric in HEADLINE
            if metric in point.rows[0].hits
        ],
        columns=[*SETTING, "metric", "direction", "rate", "value"],
    )


def images_of(features: FeatureSet) -> pd.DataFrame:
    """Tabulate the images of a split: key, sources, and number of captions, which is 0 for classification."""
    n = len(features.samples)
    captions = np.zeros(n, int) if features.captions is None else np.bincount(features.text_image.numpy(), minlength=n)
    about = {"key": features.samples["key"].astype(str), "sources": features.sources, "captions": captions}
    return pd.DataFrame(about).reset_index(drop=True)


class PairedOutcomes:
    """Outcomes of the same test images under several backbones and variants.

    Args:
        folders: Folder with the two files of each evaluation, by backbone and variant; all are of one data set.

    Attributes:
        sources: Sources of the images.

    Raises:
        UserError: The evaluations are not of the same images.
    """

    def __init__(self, folders: dict[tuple[str, str], Path]):
        images = {folder: pd.read_parquet(folder / "image_sources.parquet") for folder in folders.values()}
        (first, own), *others = images.items()
        for folder, other in others:
            if not other["key"].equals(own["key"]):
                raise UserError(f"{folder}: its test images are not those of {first}; {RUN_AGAIN}")
        self.sources = SharedSources([list(names) for names in own["sources"]])
        self._captions = own["captions"].to_numpy()
        self._tables = {key: pd.read_parquet(folder / "outcomes.parquet") for key, folder in folders.items()}

    def value(self, setting: pd.Series, metric: str) -> Estimate:
        """Return the value of a setting for each seed `[S]`, with the influence of each image `[S, n]`.

        Args:
            setting: Backbone, variant and the columns of `SETTING`.
            metric: A headline metric.

        Raises:
            ValueError: There are no such outcomes.
        """
        table = self._tables[setting["backbone"], setting["variant"]]
        same = table["metric"].eq(metric)
        for column in SETTING:
            same &= table[column].isna() if pd.isna(setting[column]) else table[column].eq(setting[column])
        rows = table[same]
        if rows.empty:
            raise ValueError(f"no outcomes of {setting.to_dict()}, {metric}")
        hits, seeded = np.stack(list(rows["hits"])).astype(float), bool(rows["seed"].notna().any())
        if direction_of(metric) == "text_to_image":
            return recall_of_captions(hits, self._captions, seeded)
        return means(hits, seeded)


def _setting(point: Point, metric: str) -> dict:
    return {c: point.about.get(c, np.nan) for c in SETTING} | {"metric": metric, "direction": direction_of(metric)}
