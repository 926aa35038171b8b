"""Values, intervals and paired differences of all operating points of one test split, from one set of resamples."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tgems.evaluation.bootstrap import ClusterBootstrap, interval
from tgems.evaluation.rows import Row
from tgems.features.cache import FeatureSet
from tgems.profiling.costs import ExitCosts

COLUMNS = [
    *("backbone", "dataset", "task", "direction", "policy", "twin_of", "variant", "guidance", "calibration"),
    *("score_normalisation", "query_bank_size", "query_bank_beta", "gmacs_query_bank"),
    *("index_safe", "bank_size", "rate_target", "exit_block", "seed", "threshold", "rate_validation", "rate"),
    *("rate_ci_low", "rate_ci_high", "gmacs", "metric", "value", "ci_low", "ci_high", "value_std", "delta_full"),
    *("delta_full_ci_low", "delta_full_ci_high", "delta_shuffled", "delta_shuffled_ci_low"),
    *("delta_shuffled_ci_high", "n", "n_clusters"),
]
HEADLINE = ("acc1", "text_retrieval_recall@1", "image_retrieval_recall@1")


def direction_of(metric: str) -> str:
    """Which way a metric asks, from its clip_benchmark name."""
    if metric.startswith("image_retrieval"):
        return "text_to_image"
    return "image_to_text" if metric.startswith("text_retrieval") else "classification"


@dataclass(frozen=True)
class Metric:
    """One metric of the rows that have it.

    Attributes:
        rows: Index into the estimates' rows `[m]`.
        value: On the split `[m]`.
        samples: On its resamples `[R, m]`.
    """

    rows: list[int]
    value: np.ndarray
    samples: np.ndarray


class Estimates:
    """Every row's rate and metrics on the split and on its resamples.

    Args:
        rows: Operating points, means over seeds included.
        features: Whose clusters are resampled; an image carries all its captions, the gallery stays fixed.
        n_resamples: R; 0 gives point values alone.
        seed: Seed of the resamples.
    """

    def __init__(self, rows: list[Row], features: FeatureSet, n_resamples: int, seed: int = 0):
        self.rows, self.n = rows, len(features.samples)
        bootstrap = ClusterBootstrap(features.clusters, self.n, n_resamples, seed)
        self.n_clusters = bootstrap.n_clusters
        rates = np.stack([r.rates for r in rows], 1)
        self.rate, self.rate_samples = rates.mean(0), bootstrap.means(rates, np.ones(self.n))
        self.metrics: dict[str, Metric] = {}
        for name in dict.fromkeys(m for r in rows for m in r.hits):
            which = [i for i, r in enumerate(rows) if name in r.hits]
            hits = np.stack([rows[i].hits[name] for i in which], 1)
            below = np.ones(self.n)
            if direction_of(name) == "text_to_image":
                below = np.bincount(features.text_image.numpy(), minlength=self.n).astype(float)
            self.metrics[name] = Metric(which, hits.sum(0) / below.sum(), bootstrap.means(hits, below))
            if name == "acc1":
                labels = features.labels.numpy()
                value = np.mean([hits[labels == c].mean(0) for c in np.unique(labels)], axis=0)
                self.metrics["mean_per_class_recall"] = Metric(which, value, bootstrap.macro_recall(hits, labels))


def tradeoff(estimates: Estimates, costs: ExitCosts, about: dict) -> pd.DataFrame:
    """The tidy table: every row and metric with intervals and differences to `full` and to its shuffled twin.

    Args:
        estimates: Of one split.
        costs: For GMACs.
        about: Columns common to all rows: backbone, variant, dataset, task.
    """
    rate_low, rate_high = interval(estimates.rate_samples)
    frames = []
    for name, metric in estimates.metrics.items():
        frame = _differences([estimates.rows[i] for i in metric.rows], metric)
        frame["metric"], frame["direction"] = name, direction_of(name)
        frame["rate"] = estimates.rate[metric.rows]
        frame["rate_ci_low"], frame["rate_ci_high"] = rate_low[metric.rows], rate_high[metric.rows]
        frames.append(frame[~frame["policy"].str.startswith("endpoint")])
    table = pd.concat(frames, ignore_index=True).assign(**about, n=estimates.n, n_clusters=estimates.n_clusters)
    table["gmacs"] = table["rate"] * costs.full / 1e9
    table["gmacs_query_bank"] = table.get("query_bank_size", np.nan) * costs.embed_dim / 1e9
    return _with_deviation(table.reindex(columns=COLUMNS))


def _differences(rows: list[Row], metric: Metric) -> pd.DataFrame:
    frame = pd.DataFrame([r.about for r in rows])
    frame["value"] = metric.value
    frame["ci_low"], frame["ci_high"] = interval(metric.samples)
    full = {r.about["score_normalisation"]: i for i, r in enumerate(rows) if r.about["policy"] == "full"}
    twin = {_point(r, "twin_of"): i for i, r in enumerate(rows) if r.about["policy"] == "shuffled"}
    partner = [twin.get(_point(r, "policy")) for r in rows]
    for name, other in (("full", [full[r.about["score_normalisation"]] for r in rows]), ("shuffled", partner)):
        paired = [i for i, j in enumerate(other) if j is not None]
        against = [other[i] for i in paired]
        low, high = interval(metric.samples[:, paired] - metric.samples[:, against])
        columns = {"": metric.value[paired] - metric.value[against], "_ci_low": low, "_ci_high": high}
        for suffix, column in columns.items():
            frame[f"delta_{name}{suffix}"] = np.nan
            frame.loc[paired, f"delta_{name}{suffix}"] = column
    return frame


def _point(row: Row, key: str) -> tuple:
    return tuple(str(row.about.get(k)) for k in (key, "rate_target", "calibration", "seed", "score_normalisation"))


def _with_deviation(table: pd.DataFrame) -> pd.DataFrame:
    """Fill `value_std` of means with the deviation over their seeds, where there are two or more."""
    keys = ["policy", "twin_of", "calibration", "score_normalisation", "rate_target", "exit_block", "metric"]
    seeds = table[table["seed"].notna() & table["seed"].ne("mean")]
    spread = seeds.groupby(keys, dropna=False)["value"].std().rename("spread").reset_index()
    spread = table[keys].merge(spread, on=keys, how="left")["spread"].to_numpy()
    return table.assign(value_std=np.where(table["seed"].eq("mean"), spread, np.nan))
