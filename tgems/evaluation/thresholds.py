"""Fit everything that evaluation applies later: thresholds and hull vertices, from validation features only."""

from dataclasses import asdict, dataclass

import numpy as np
import torch

from tgems.evaluation.inputs import Truth, outputs_of
from tgems.exits.policies import POLICIES, ExitModules, choose_exits, fit_threshold
from tgems.features.cache import FeatureSet
from tgems.profiling.costs import ExitCosts


@dataclass(frozen=True)
class FittedThreshold:
    """A policy's threshold for one seed and target, and what it gave on validation."""

    policy: str
    seed: int
    rate_target: float
    threshold: float
    rate_validation: float
    rate_variance: float
    exit_shares: tuple[float, ...]
    bank_size: int | None
    n_clusters: int


@dataclass(frozen=True)
class FittedHull:
    """Mix of two fixed exits that meets a target: the share `weight` leaves at `high`, the rest at `low` (0-based)."""

    seed: int
    rate_target: float
    low: int
    high: int
    weight: float


def concave_hull(rates: np.ndarray, values: np.ndarray) -> list[int]:
    """Vertices of the upper concave hull of points sorted by rate, ascending."""
    hull: list[int] = []
    for i in range(len(rates)):
        while len(hull) >= 2:
            a, b = hull[-2], hull[-1]
            turn = (rates[b] - rates[a]) * (values[i] - values[a]) - (values[b] - values[a]) * (rates[i] - rates[a])
            if turn < 0:
                break
            hull.pop()
        hull.append(i)
    return hull


def mix_for_target(rates: np.ndarray, hull: list[int], target: float) -> tuple[int, int, float]:
    """The hull's edge that holds the target, and the share of its upper end; the nearest vertex outside of the hull."""
    inside = float(np.clip(target, rates[hull[0]], rates[hull[-1]]))
    for low, high in zip(hull[:-1], hull[1:], strict=True):
        if inside <= rates[high]:
            return low, high, float((inside - rates[low]) / (rates[high] - rates[low]))
    return hull[-1], hull[-1], 1.0


def fit_seed(
    features: FeatureSet,
    modules: ExitModules,
    costs: ExitCosts,
    seed: int,
    policies: list[str],
    rate_targets: list[float],
) -> tuple[list[FittedThreshold], list[FittedHull]]:
    """Fit all policies of one seed on the validation images of one data set.

    Args:
        features: Validation features.
        modules: Modules of this seed.
        costs: Costs of the backbone.
        seed: Seed, recorded.
        policies: Names; those that fit nothing here are skipped.
        rate_targets: Mean rates not to be exceeded.
    """
    outputs = outputs_of(features, modules, costs)
    n_clusters = len(features.samples) if features.clusters is None else len(set(features.clusters))
    fitted, hulls = [], []
    for name in (p for p in policies if p in POLICIES):
        policy = POLICIES[name]
        price = policy.costs(costs, len(outputs.bank))
        scores = None
        for target in rate_targets:
            if scores is None or policy.per_target:
                scores = policy.scores(outputs, target)
            threshold, rate = fit_threshold(scores, price, target)
            exits = choose_exits(scores, threshold)
            shares = torch.bincount(exits, minlength=len(price)).double() / len(exits)
            size = len(outputs.bank) if policy.needs_bank else None
            variance = float(np.var(price[exits.numpy()]))
            about = (variance, tuple(shares.tolist()), size, n_clusters)
            fitted.append(FittedThreshold(name, seed, target, threshold, rate, *about))
    if "hull" in policies:
        right = (Truth.of(features).image_ranks(outputs.embeddings) < 1).double().mean(0).numpy()
        rates = costs.fixed()
        vertices = concave_hull(rates, right)
        hulls = [FittedHull(seed, target, *mix_for_target(rates, vertices, target)) for target in rate_targets]
    return fitted, hulls


def as_json(fitted: list[FittedThreshold], hulls: list[FittedHull], manifest: dict) -> dict:
    """What `thresholds.json` holds."""
    return {
        "thresholds": [asdict(f) for f in fitted],
        "hulls": [asdict(h) for h in hulls],
        "weights": manifest["weights"],
        "validation": {"n": manifest["n"], "shards": manifest["shards"], "prompts": manifest["prompts"]},
    }


def from_json(value: dict) -> tuple[list[FittedThreshold], list[FittedHull]]:
    """Read back what `as_json` gave."""
    thresholds = [FittedThreshold(**t | {"exit_shares": tuple(t["exit_shares"])}) for t in value["thresholds"]]
    return thresholds, [FittedHull(**h) for h in value["hulls"]]
