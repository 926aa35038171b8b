"""Intervals and p values for means over images that share sources and over training seeds (docs/method.md#uncertainty).

Pure numpy. Every number that the evaluation reports is a smooth function of means over images, so that its sampling
error is, to first order, the mean of an *influence* of each image. The variance of such a mean is a sandwich estimate:
the sum of the products of the influences of all pairs of images that have a source in common.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


class SharedSources:
    """Which images of a split depend on each other: those that have a source in common.

    Args:
        sources: Names of the sources of each image, at least one.

    Attributes:
        n: Number of images.
        n_sources: Number of distinct sources.
        degrees: Degrees of freedom of a variance over the images.

    Raises:
        ValueError: There are no images.
    """

    def __init__(self, sources: Sequence[Sequence[str]]):
        from scipy import sparse

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
        """Estimate the variance of the means of influences `[n, ...]`, which sum to zero; NaN if all images are alike.

        The estimate is unbiased however images with a common source depend on each other (Aronow, Samii and Assenova,
        "Cluster-robust variance estimation for dyadic data", 2015, for pairs), apart from the usual factor for small
        samples. If it falls below the estimate for independent images by chance, the latter is returned.
        """
        flat = np.asarray(influence, dtype=np.float64).reshape(self.n, -1)
        if self.degrees <= 0:
            return np.full(np.shape(influence)[1:], np.nan)
        summed = self._cells @ flat
        found = np.maximum((summed * (self._alike @ summed)).sum(0), (flat**2).sum(0)) / self.n**2
        return (found * (self.degrees + 1) / self.degrees).reshape(np.shape(influence)[1:])


@dataclass(frozen=True)
class Estimate:
    """Numbers of every seed, and the influence of each image on them: n times the change that it makes, to first order.

    Attributes:
        values: `[S, ...]`; a single row, which is broadcast, for numbers without seeds, such as the full encoder's.
        influence: `[S, n, ...]`, summing to zero over images.
        seeded: Whether another seed would give other numbers.
    """

    values: np.ndarray
    influence: np.ndarray
    seeded: bool

    def __sub__(self, other: "Estimate") -> "Estimate":
        seeded = self.seeded or other.seeded
        return Estimate(self.values - other.values, self.influence - other.influence, seeded)


@dataclass(frozen=True)
class Intervals:
    """Means over seeds and their sampling error; all arrays are `[m]`.

    The half widths due to images and due to seeds, each by Student's t with its own degrees of freedom, are added in
    quadrature (the modified large-sample method; Graybill and Wang, "Confidence intervals on nonnegative linear
    combinations of variances", 1980).

    Attributes:
        value: Mean over seeds.
        of_images: Variance of that mean due to the sampling of images and their sources.
        of_seeds: Variance that the sampling of seeds adds; NaN if unknown.
        degrees: Degrees of freedom of the two variances.
    """

    value: np.ndarray
    of_images: np.ndarray
    of_seeds: np.ndarray
    degrees: tuple[float, float]

    @property
    def modules(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the 95 percent interval for these modules, which covers the sampling of images and sources."""
        half = self._half_width(1 - LEVEL, 0.0)
        return self.value - half, self.value + half

    @property
    def method(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the 95 percent interval for the method, which also covers the sampling of seeds."""
        half = self._half_width(1 - LEVEL, self.of_seeds)
        return self.value - half, self.value + half

    @property
    def p(self) -> np.ndarray:
        """Two-sided p value of zero for the method: the level at which the interval ends at zero; NaN if unknown."""
        low, high = np.full(self.value.shape, -300.0), np.zeros(self.value.shape)
        for _ in range(60):  # bisection of log p, since small p values matter
            middle = (low + high) / 2
            reaches = self._half_width(np.exp(middle), self.of_seeds) >= np.abs(self.value)
            low, high = np.where(reaches, middle, low), np.where(reaches, high, middle)
        unknown = np.isnan(self.of_images + self.of_seeds + self.value)
        return np.where(unknown, np.nan, np.where(self.value == 0, 1.0, np.exp(high)))

    def _half_width(self, alpha: np.ndarray | float, of_seeds: np.ndarray | float) -> np.ndarray:
        from scipy.special import stdtrit

        by_images, by_seeds = (-stdtrit(max(degrees, 1e-9), alpha / 2) for degrees in self.degrees)
        return np.sqrt(by_images**2 * self.of_images + by_seeds**2 * of_seeds)


def intervals(estimate: Estimate, sources: SharedSources) -> Intervals:
    """Compute means over S seeds and their sampling error.

    Let s2 be the variance of the values over seeds, and V the part of s2 that images explain, since each seed errs on
    other images. Seeds add max(0, s2 - V) / S to the variance of the mean over these images. With one seed, what they
    add is unknown, and NaN.

    Args:
        estimate: Estimate with values `[S, m]`.
        sources: Sources of the images.
    """
    values, influence = estimate.values, estimate.influence
    seeds, mean, added = len(values), influence.mean(0), np.zeros(values.shape[1])
    if estimate.seeded and seeds == 1:
        added = np.full(values.shape[1], np.nan)
    elif estimate.seeded:
        explained = sum(sources.variance(one - mean) for one in influence) / (seeds - 1)
        added = np.maximum(0, values.var(0, ddof=1) - explained) / seeds
    degrees = (sources.degrees, float(max(seeds - 1, 1)))
    return Intervals(values.mean(0), sources.variance(mean), added, degrees)


def holm(p: np.ndarray) -> np.ndarray:
    """Adjust p values `[m]` by Holm's step-down correction; NaN stands for no test and stays NaN."""
    adjusted = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested])]
    steps = (len(order) - np.arange(len(order))) * p[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
