"""Paired cluster bootstrap for many statistics at once: the resamples are drawn once, every column shares them."""

import numpy as np


class ClusterBootstrap:
    """Resample clusters with replacement.

    Args:
        clusters: Cluster of each unit `[n]` (any labels), or None where every unit is its own.
        n: Number of units, needed where `clusters` is None.
        n_resamples: R.
        seed: Seed of the draws.

    Raises:
        ValueError: There is no unit.
    """

    def __init__(self, clusters, n: int | None = None, n_resamples: int = 1000, seed: int = 0):
        if clusters is None:
            clusters = np.arange(n)
        names, self.cluster_of = np.unique(np.asarray(clusters), return_inverse=True)
        self.n, self.n_clusters = len(self.cluster_of), len(names)
        if not self.n:
            raise ValueError("the bootstrap needs at least one unit, got none")
        self.order = np.argsort(self.cluster_of, kind="stable")
        self.starts = np.searchsorted(self.cluster_of[self.order], np.arange(self.n_clusters))
        rng = np.random.default_rng(seed)
        shares = np.full(self.n_clusters, 1 / self.n_clusters)
        self.counts = rng.multinomial(self.n_clusters, shares, size=n_resamples).astype(np.float64)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Resampled sums of `[n, ...]`: `[R, ...]`."""
        flat = np.asarray(values, dtype=np.float64).reshape(self.n, -1)
        per_cluster = np.add.reduceat(flat[self.order], self.starts)
        return (self.counts @ per_cluster).reshape(len(self.counts), *np.shape(values)[1:])

    def means(self, numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
        """Resampled ratios of sums: `[n, ...]` over `[n]` -> `[R, ...]`."""
        below = self.sums(denominator)
        return self.sums(numerator) / below.reshape(-1, *(1,) * (np.ndim(numerator) - 1))

    def macro_recall(self, correct: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Resampled mean per-class recall: `[n, columns]` -> `[R, columns]`; absent classes are left out."""
        total, present = 0.0, 0.0
        for label in np.unique(labels):
            member = (labels == label).astype(np.float64)
            below = self.sums(member)
            recall = self.sums(correct * member[:, None]) / np.maximum(below, 1)[:, None]
            total = total + recall * (below > 0)[:, None]
            present = present + (below > 0)
        return total / present[:, None]


def interval(samples: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval over resamples: `[R, ...]` -> two of `[...]`."""
    tail = (1 - level) / 2
    low, high = np.quantile(samples, (tail, 1 - tail), axis=0)
    return low, high


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction: `[m]` p values -> `[m]` adjusted ones."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
