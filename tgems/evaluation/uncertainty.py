"""Intervals and p values for means over images that share sources and over training seeds (docs/method.md#uncertainty).

Pure numpy. Every number that the evaluation reports is a smooth function of means over images, so that its sampling
error is, to first order, the mean of an *influence* of each image. The variance of such a mean is a sandwich estimate:
the products of the influences of all pairs of images that have a source in common.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse, stats

LEVEL = 0.95


class SharedSources:
    """Which images of a split may be alike: those with a source in common. All others are independent.

    Args:
        sources: For each image the names of its sources, one at least.

    Attributes:
        n: Number of images.
        n_sources: Number of distinct sources.
        degrees: Degrees of freedom of a variance over the images.

    Raises:
        ValueError: There is no image.
    """

    def __init__(self, sources: Sequence[Sequence[str]]):
        self.n = len(sources)
        if not self.n:
            raise ValueError("intervals need at least one image, got none")
        sets: dict[tuple, int] = {}
        cell = np.array([sets.setdefault(tuple(sorted(set(own))), len(sets)) for own in sources])
        names = {name: k for k, name in enumerate(dict.fromkeys(name for own in sets for name in own))}
        self.n_sources = len(names)
        held = [(row, names[name]) for row, own in enumerate(sets) for name in own]
        rows, columns = np.array(held).T
        member = sparse.csr_array((np.ones(len(held)), (rows, columns)), shape=(len(sets), len(names)))
        self._cells = sparse.csr_array((np.ones(self.n), (cell, np.arange(self.n))), shape=(len(sets), self.n))
        self._alike = (member @ member.T).astype(bool).astype(float)
        size = np.bincount(cell)
        pairs = float(size @ (self._alike @ size))
        self.degrees = self.n**2 / pairs - 1

    def variance(self, influence: np.ndarray) -> np.ndarray:
        """Variance of the means of influences `[n, ...]` that sum to zero: `[...]`; NaN where all images are alike.

        The estimate is unbiased whatever images with a common source have in common (Aronow, Samii and Assenova,
        "Cluster-robust variance estimation for dyadic data", 2015, of pairs), but for the usual factor of small
        samples. It may fall below that of independent images by chance, and is not let to.
        """
        flat = np.asarray(influence, dtype=np.float64).reshape(self.n, -1)
        if self.degrees <= 0:
            return np.full(np.shape(influence)[1:], np.nan)
        summed = self._cells @ flat
        found = np.maximum((summed * (self._alike @ summed)).sum(0), (flat**2).sum(0)) / self.n**2
        return (found * (self.degrees + 1) / self.degrees).reshape(np.shape(influence)[1:])


@dataclass(frozen=True)
class Intervals:
    """Means over seeds with 95 percent intervals; all arrays are `[m]`.

    Attributes:
        value: Mean over seeds.
        low: Of the interval for these very modules: sampling of images and their sources.
        high: Of the same.
        method_low: Of the interval for the method: sampling of images, sources and seeds.
        method_high: Of the same.
        p: Two-sided p value of the value being zero, for the method.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    method_low: np.ndarray
    method_high: np.ndarray
    p: np.ndarray


def intervals(values: np.ndarray, influence: np.ndarray, sources: SharedSources) -> Intervals:
    """Compute both intervals of means over seeds.

    Let V be the variance over images of the mean over S seeds, s2 the variance of the values over seeds and V' the part
    of s2 that images explain, since each seed errs on other images. The variance that seeds add is max(0, s2 - V') / S.
    The half widths of both parts, by Student's t with the degrees of freedom of each, are added in quadrature (the
    modified large-sample method; Graybill and Wang, "Confidence intervals on nonnegative linear combinations of
    variances", 1980).

    Args:
        values: `[S, m]`; with one seed, or without any, the method's interval is that of the modules.
        influence: `[S, n, m]`, each summing to zero over images.
        sources: Of the images.
    """
    seeds = len(values)
    mean = influence.mean(0)
    images, added = sources.variance(mean), np.zeros(values.shape[1])
    if seeds > 1:
        explained = sum(sources.variance(one - mean) for one in influence) / (seeds - 1)
        added = np.maximum(0, values.var(0, ddof=1) - explained) / seeds
    value = values.mean(0)

    def half_width(alpha: np.ndarray | float, seed_variance: np.ndarray) -> np.ndarray:
        by_images = stats.t.isf(alpha / 2, max(sources.degrees, 1e-9))
        by_seeds = stats.t.isf(alpha / 2, max(seeds - 1, 1))
        return np.sqrt(by_images**2 * images + by_seeds**2 * seed_variance)

    own, method = half_width(1 - LEVEL, np.zeros_like(added)), half_width(1 - LEVEL, added)
    # p is the level at which the interval ends at zero. It is found by bisection of log p, since small ones matter.
    low, high = np.full(value.shape, -700.0), np.zeros(value.shape)
    for _ in range(60):
        middle = (low + high) / 2
        reaches = half_width(np.exp(middle), added) >= np.abs(value)
        low, high = np.where(reaches, middle, low), np.where(reaches, high, middle)
    p = np.where(np.isnan(images + value), np.nan, np.where(value == 0, 1.0, np.exp(high)))
    return Intervals(value, value - own, value + own, value - method, value + method, p)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction: `[m]` p values -> `[m]` adjusted ones; NaN is no test, and stays NaN."""
    adjusted = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested])]
    steps = (len(order) - np.arange(len(order))) * p[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
