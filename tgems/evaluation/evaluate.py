"""Evaluate one backbone on the test images of one data set: every policy, target and seed, with paired intervals."""

import numpy as np
import pandas as pd

from tgems.evaluation.bootstrap import ClusterBootstrap, interval
from tgems.evaluation.inputs import Truth
from tgems.evaluation.rows import Row, mean_over_seeds
from tgems.features.cache import FeatureSet
from tgems.profiling.costs import ExitCosts

COLUMNS = [
    *("backbone", "dataset", "task", "direction", "policy", "variant", "guidance", "calibration", "index_safe"),
    *("bank_size", "rate_target", "exit_block", "seed", "threshold", "rate_validation", "rate", "rate_ci_low"),
    *("rate_ci_high", "gmacs", "metric", "value", "ci_low", "ci_high", "delta_full", "delta_full_ci_low"),
    *("delta_full_ci_high", "delta_shuffled", "delta_shuffled_ci_low", "delta_shuffled_ci_high", "n", "n_clusters"),
]


def direction_of(metric: str) -> str:
    """Which way a metric asks, from its clip_benchmark name."""
    if metric.startswith("image_retrieval"):
        return "text_to_image"
    return "image_to_text" if metric.startswith("text_retrieval") else "classification"


def tradeoff(
    rows: list[Row], features: FeatureSet, costs: ExitCosts, about: dict, n_resamples: int, seed: int = 0
) -> pd.DataFrame:
    """Put values, rates and differences to `full` and to the shuffled exits on paired bootstrap intervals.

    Args:
        rows: Rows of all seeds; means over seeds are added.
        features: Test features; their clusters are what is resampled.
        costs: Costs, for GMACs.
        about: Columns common to all rows: backbone, dataset, task.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resamples.
    """
    rows = [*rows, *mean_over_seeds(rows)]
    n = len(features.samples)
    bootstrap = ClusterBootstrap(features.clusters, n, n_resamples, seed)
    rates = np.stack([r.rates for r in rows], 1)
    rate_low, rate_high = interval(bootstrap.means(rates, np.ones(n)))
    frames = []
    for metric in rows[0].hits:
        which = [i for i, r in enumerate(rows) if metric in r.hits]
        hits = np.stack([rows[i].hits[metric] for i in which], 1)
        value, samples = _statistic(metric, hits, features, bootstrap)
        frames.append(_frame(metric, [rows[i] for i in which], value, samples))
        for name, column in (("rate", rates.mean(0)), ("rate_ci_low", rate_low), ("rate_ci_high", rate_high)):
            frames[-1][name] = column[which]
        if metric == "acc1":
            labels = features.labels.numpy()
            value = _macro_recall(hits, labels)
            extra = _frame(
                "mean_per_class_recall", [rows[i] for i in which], value, bootstrap.macro_recall(hits, labels)
            )
            extra[["rate", "rate_ci_low", "rate_ci_high"]] = frames[-1][["rate", "rate_ci_low", "rate_ci_high"]]
            frames.append(extra)
    frame = pd.concat(frames, ignore_index=True).assign(**about, n=n, n_clusters=bootstrap.n_clusters)
    frame["gmacs"] = frame["rate"] * costs.full / 1e9
    frame["direction"] = frame["metric"].map(direction_of)
    safe = (frame["direction"] != "text_to_image") | frame["index_safe"].astype(bool)
    frame["index_safe"] = safe & frame["index_safe"].astype(bool)
    return frame.reindex(columns=COLUMNS)


def _statistic(metric: str, hits: np.ndarray, features: FeatureSet, bootstrap: ClusterBootstrap):
    """Value `[rows]` and resamples `[R, rows]` of a ratio of sums: hits over images, or over captions."""
    below = np.ones(len(hits))
    if direction_of(metric) == "text_to_image":
        below = np.bincount(features.text_image.numpy(), minlength=len(hits)).astype(float)
    return hits.sum(0) / below.sum(), bootstrap.means(hits, below)


def _macro_recall(correct: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.mean([correct[labels == c].mean(0) for c in np.unique(labels)], axis=0)


def _frame(metric: str, rows: list[Row], value: np.ndarray, samples: np.ndarray) -> pd.DataFrame:
    """One metric of all rows, with differences to `full` and to each adaptive row's shuffled twin."""
    frame = pd.DataFrame([r.about for r in rows])
    frame["metric"], frame["value"] = metric, value
    frame["ci_low"], frame["ci_high"] = interval(samples)
    full = next(i for i, r in enumerate(rows) if r.about["policy"] == "full")
    twin = {_point(r): i for i, r in enumerate(rows) if r.about["policy"] == "shuffled"}
    partner = [twin.get(_point(r)) if r.about["policy"] != "shuffled" else None for r in rows]
    for name, other in (("full", [full] * len(rows)), ("shuffled", partner)):
        paired = [i for i, j in enumerate(other) if j is not None]
        against = [other[i] for i in paired]
        low, high = interval(samples[:, paired] - samples[:, against])
        columns = {"": value[paired] - value[against], "_ci_low": low, "_ci_high": high}
        for suffix, column in columns.items():
            frame[f"delta_{name}{suffix}"] = np.nan
            frame.loc[paired, f"delta_{name}{suffix}"] = column
    return frame


def _point(row: Row) -> tuple:
    return (row.about.get("variant"), row.about.get("rate_target"), str(row.about.get("seed")))


def exit_shares(rows: list[Row], costs: ExitCosts, about: dict) -> pd.DataFrame:
    """Share of test images by exit, for every adaptive row."""
    records = []
    for row in rows:
        if row.exits is None or "rate_target" not in row.about:
            continue
        shares = np.bincount(row.exits, minlength=len(costs.blocks)) / len(row.exits)
        for block, share in zip(costs.blocks, shares, strict=True):
            keep = {k: row.about[k] for k in ("policy", "rate_target", "seed")}
            records.append(about | keep | {"exit_block": block, "share": share})
    return pd.DataFrame(records)


def semantic_content(
    features: FeatureSet, per_seed: list, costs: ExitCosts, about: dict, n_resamples: int
) -> pd.DataFrame:
    """What each block already knows: accuracy or R@1 of raw projection and trained heads, and the share of images

    whose right text has ranked first at that block or before (docs/method.md#semantic-content).

    Args:
        features: Test features.
        per_seed: Embeddings at every exit `[n, E, D]` of each seed; hits are averaged.
        costs: For block numbers.
        about: Common columns.
        n_resamples: Bootstrap resamples.
    """
    truth = Truth.of(features)
    bootstrap = ClusterBootstrap(features.clusters, len(features.samples), n_resamples)
    metric = "acc1" if truth.text_image is None else "text_retrieval_recall@1"
    frames = []
    for head, sets in (("raw", [features.raw_embeddings]), ("trained", per_seed)):
        right = [(truth.image_ranks(z) < 1).double().numpy() for z in sets]
        hits = np.mean(right, axis=0)
        low, high = interval(bootstrap.means(hits, np.ones(len(hits))))
        earliest = np.mean([np.maximum.accumulate(r, axis=1) for r in right], axis=(0, 1))
        columns = {"exit_block": costs.blocks, "head": head, "metric": metric, "value": hits.mean(0)}
        columns |= {"ci_low": low, "ci_high": high, "earliest_share": earliest}
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True).assign(**about, n=len(features.samples))
