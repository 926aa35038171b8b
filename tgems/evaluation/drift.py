"""Tabulate how the mean rate of a stream approaches its target, and the accuracy lost against in-domain thresholds."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tgems.evaluation.estimates import HEADLINE, Point, direction_of, measure
from tgems.evaluation.online import stream_order
from tgems.evaluation.uncertainty import Estimate, SharedSources, intervals
from tgems.features.cache import FeatureSet
from tgems.policies.interface import Policy, ThresholdPolicy

SEEN = (100, 200, 500, 1000)
KEYS = ["policy", "calibration", "rate_target", "seed", "images"]
COMPARISON = [
    *("direction", "metric", "delta_in_domain", "delta_in_domain_ci_low", "delta_in_domain_ci_high"),
    *("delta_in_domain_method_ci_low", "delta_in_domain_method_ci_high"),
]
COLUMNS = ["backbone", "variant", "dataset", *KEYS, "rate", "excess", *COMPARISON]


def drift(
    points: Sequence[Point],
    policies: dict[str, Policy],
    features: FeatureSet,
    directions: Sequence[str],
    about: dict[str, str],
) -> pd.DataFrame:
    """Tabulate mean rates after 100, 200, 500, 1000 and all images, in the order of `stream_order`.

    Args:
        points: Operating points; those of policies with thresholds are tabulated, without shuffled twins and
            normalised scores.
        policies: Policies by name.
        features: Features of the split.
        directions: Directions of retrieval to report.
        about: Columns common to all rows: backbone, variant, dataset.

    Returns:
        A row per point, seed (or `mean` over seeds) and number of images; `excess` is the rate less its target. The
        rows for all images, one per headline metric, also have the difference to thresholds from the data set's own
        validation images, if there are any, and its paired intervals.
    """
    own = [
        p
        for p in points
        if isinstance(policies.get(p.about["policy"]), ThresholdPolicy)
        and p.about["score_normalisation"] == "none"
        and p.about.get("rate_target") is not None
    ]
    if not own:
        return pd.DataFrame(columns=COLUMNS)
    rates = pd.DataFrame([record for point in own for record in _rates(point)])
    found = pd.concat([pd.DataFrame(columns=[*KEYS, *COMPARISON]), *_comparisons(own, features, directions)])
    table = rates.merge(found.astype({"rate_target": float, "images": int}), on=KEYS, how="left")
    return table.assign(excess=table["rate"] - table["rate_target"], **about)[COLUMNS]


def _rates(point: Point) -> list[dict]:
    """Return records of the mean rates of each seed and of their mean; a point without seeds has one stream."""
    n = len(point.rows[0].rates)
    seen = np.array([*(k for k in SEEN if k < n), n])
    streams = [row.rates[stream_order(n, seed)] for row, seed in zip(point.rows, point.seeds, strict=True)]
    means = {seed: s.cumsum()[seen - 1] / seen for seed, s in zip(map(_name, point.seeds), streams, strict=True)}
    if point.seeded:
        means["mean"] = np.mean(list(means.values()), axis=0)
    keys = {key: point.about[key] for key in ("policy", "calibration", "rate_target")}
    return [
        keys | {"seed": seed, "images": k, "rate": rate}
        for seed, own in means.items()
        for k, rate in zip(seen, own, strict=True)
    ]


def _comparisons(points: list[Point], features: FeatureSet, directions: Sequence[str]) -> list[pd.DataFrame]:
    """Compare points with those of in-domain thresholds, on the same images and seeds, by metric and by seeds."""
    sources, frames = SharedSources(features.sources), []
    base = {_key(p): p for p in points if p.about["calibration"] == "in_domain"}
    for metric in HEADLINE:
        if direction_of(metric) not in ("classification", *directions):
            continue
        paired = [p for p in points if metric in p.rows[0].hits and p is not base.get(_key(p), p)]
        for seeds in dict.fromkeys(tuple(p.seeds) for p in paired):
            group = [p for p in paired if tuple(p.seeds) == seeds]
            delta = measure(group, metric, features) - measure([base[_key(p)] for p in group], metric, features)
            parts = {_name(seed): slice(s, s + 1) for s, seed in enumerate(seeds)}
            parts |= {"mean": slice(None)} if seeds != (None,) else {}
            for name, part in parts.items():
                result = intervals(Estimate(delta.values[part], delta.influence[part], delta.seeded), sources)
                ends = [*result.modules, *(result.method if name in (None, "mean") else [np.nan, np.nan])]
                frame = pd.DataFrame([{k: p.about[k] for k in KEYS[:3]} for p in group])
                values = (direction_of(metric), metric, result.value, *ends)
                frames.append(frame.assign(seed=name, images=sources.n, **dict(zip(COMPARISON, values, strict=True))))
    return frames


def _key(point: Point) -> tuple:
    return point.about["policy"], point.about["rate_target"]


def _name(seed: int | None) -> str | None:
    return None if seed is None else str(seed)
