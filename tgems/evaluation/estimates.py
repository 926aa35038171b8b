"""Values of operating points over seeds, and the influence of each image on them (docs/method.md#uncertainty)."""

from dataclasses import dataclass

import numpy as np

from tgems.evaluation.operating_points import Row
from tgems.evaluation.uncertainty import Estimate
from tgems.features.cache import FeatureSet

HEADLINE = ("acc1", "text_retrieval_recall@1", "image_retrieval_recall@1")
PER_SEED = ("seed", "threshold", "rate_validation")


def direction_of(metric: str) -> str:
    """Return the direction of a metric, from its clip_benchmark name."""
    if metric.startswith("image_retrieval"):
        return "text_to_image"
    return "image_to_text" if metric.startswith("text_retrieval") else "classification"


@dataclass(frozen=True)
class Point:
    """One operating point: the columns that identify it, and its rows, one per seed or a single one without seeds."""

    about: dict
    rows: list[Row]

    @property
    def seeds(self) -> list[int | None]:
        """Seed of each row."""
        return [row.about.get("seed") for row in self.rows]

    @property
    def rates(self) -> Estimate:
        """Mean rate."""
        return means(np.stack([row.rates for row in self.rows]), self.seeded)

    @property
    def seeded(self) -> bool:
        """Whether the point depends on the training seed."""
        return self.seeds != [None]


def points_of(rows: list[Row]) -> list[Point]:
    """Gather rows that differ only in their seed."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        key = tuple(sorted((k, str(v)) for k, v in row.about.items() if k not in PER_SEED))
        groups.setdefault((key, tuple(row.hits), row.about.get("seed") is None), []).append(row)
    return [Point({k: v for k, v in own[0].about.items() if k not in PER_SEED}, own) for own in groups.values()]


def means(values: np.ndarray, seeded: bool) -> Estimate:
    """Compute means over images: `[S, n, ...]`."""
    mean = values.mean(1)
    return Estimate(mean, values - mean[:, None], seeded)


def measure(points: list[Point], metric: str, features: FeatureSet) -> Estimate:
    """Measure one metric of points with the same seeds: `[S, m]` with influences `[S, n, m]`.

    Args:
        points: Points that have the metric.
        metric: Name in clip_benchmark; `mean_per_class_recall` is computed from the hits of `acc1`.
        features: Features of the images, with the captions or labels that the metric counts.
    """
    name = "acc1" if metric == "mean_per_class_recall" else metric
    hits = np.stack([np.stack([row.hits[name] for row in point.rows]) for point in points], -1)
    n, seeded = hits.shape[1], points[0].seeded
    if metric == "mean_per_class_recall":
        _, label, size = np.unique(features.labels.numpy(), return_inverse=True, return_counts=True)
        member = np.eye(len(size))[:, label] / size[:, None]
        recall = np.einsum("cn,snm->scm", member, hits)
        weight = n / (len(size) * size[label])[None, :, None]
        return Estimate(recall.mean(1), weight * (hits - recall[:, label]), seeded)
    if direction_of(metric) != "text_to_image":
        return means(hits, seeded)
    return recall_of_captions(hits, np.bincount(features.text_image.numpy(), minlength=n)[:, None], seeded)


def recall_of_captions(hits: np.ndarray, captions: np.ndarray, seeded: bool) -> Estimate:
    """Compute the share of captions that are hits, as a mean over images, each with all of its captions.

    Args:
        hits: Number of each image's captions that are hits `[S, n, ...]`.
        captions: Number of each image's captions `[n, ...]`, which is broadcast.
        seeded: Whether another seed would give other hits.
    """
    total, value = captions.sum(), hits.sum(1) / captions.sum()
    return Estimate(value, hits.shape[1] / total * (hits - captions * value[:, None]), seeded)


def metrics_of(points: list[Point]) -> list[str]:
    """List the metrics that some of the points have."""
    found = list(dict.fromkeys(name for point in points for name in point.rows[0].hits))
    return [*found, "mean_per_class_recall"] if "acc1" in found else found
