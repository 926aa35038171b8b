"""Measure what each part of a T-GEM adds at equal rate, from the frozen projection to gates and normalised scores."""

import numpy as np
import pandas as pd

from tgems.evaluation.curves import Curves, Key
from tgems.evaluation.estimates import Point, direction_of, measure
from tgems.evaluation.uncertainty import Estimate, SharedSources
from tgems.evaluation.wins import best_policy, difference, interval_of
from tgems.features.cache import FeatureSet
from tgems.policies.interface import Policy

STEPS: dict[str, str | None] = {
    "frozen_fixed": None,
    "frozen_confidence": "frozen_fixed",
    "heads_fixed": "frozen_fixed",
    "heads_confidence": "frozen_confidence",
    "image_gates": "heads_confidence",
    "bank_gates": "heads_confidence",
    "score_normalisation": "image_gates",
}
"""Steps, each with the step that it builds on."""


def policies_of_steps(policies: dict[str, Policy]) -> dict[str, list[str]]:
    """Return the policies of each step; the one that is best on validation stands for the step.

    The steps without gates consider all policies that decide by the image without a trained gate, and the hull of
    fixed exits.
    """
    rules = {n: p for n, p in policies.items() if (p.adaptive or p.mixes) and p.gates is None and not p.oracle}
    return {
        "frozen_fixed": ["hull_raw"],
        "frozen_confidence": [name for name, policy in rules.items() if policy.frozen_head],
        "heads_fixed": ["hull"],
        "heads_confidence": [name for name, policy in rules.items() if not policy.frozen_head],
        "image_gates": ["tgem"],
        "bank_gates": ["tgem_bank"],
        "score_normalisation": ["tgem"],
    }


def contributions(
    test: Curves,
    normalised: Curves,
    validation: Curves,
    policies: dict[str, Policy],
    points: list[Point],
    features: FeatureSet,
    rate_targets: list[float],
    about: dict,
) -> pd.DataFrame:
    """Tabulate the steps at every rate target, under the data set's own thresholds.

    Args:
        test: Curves of test images.
        normalised: Curves of test images with normalised scores; empty without score normalisation.
        validation: Validation curves, on which the best of several policies is picked.
        policies: Policies by name.
        points: Operating points, for the full encoder and the oracle.
        features: Features of the test images.
        rate_targets: Rates at which the curves are read.
        about: Columns common to all rows.

    Returns:
        One row per metric, rate and step: the policy that was picked, its value, and its gain over the step that it
            builds on, each with both intervals. The rows `full` and `oracle` have rates of their own.
    """
    sources, named = SharedSources(features.sources), policies_of_steps(policies)
    records = []
    for metric, curves in test.items():
        common = about | {"direction": direction_of(metric), "metric": metric}
        for target in rate_targets:
            rate = Estimate(np.array([target]), np.zeros((1, sources.n)), False)
            found: dict[str, tuple[Key, Estimate]] = {}
            for step, names in named.items():
                own = normalised.get(metric, {}) if step == "score_normalisation" else curves
                key = best_policy(validation.get(metric, {}), target, among=names)
                if key is not None and key in own:
                    found[step] = (key, own[key].read(rate))
            for step, (key, value) in found.items():
                row = common | {"rate": target, "step": step, "policy": key[0]} | _value(value, sources)
                below = STEPS[step]
                if below in found:
                    gain = difference(value - found[below][1], sources)
                    row |= {"over": below} | {f"gain{_suffix(k)}": v for k, v in gain.items() if k != "reason"}
                records.append(row)
        for name in ("full", "oracle"):
            for point in points:
                if point.about["policy"] == name and point.about["score_normalisation"] == "none":
                    records += _bound(point, metric, features, sources, common | {"step": name, "policy": name})
    return pd.DataFrame(records)


def _bound(point: Point, metric: str, features: FeatureSet, sources: SharedSources, row: dict) -> list[dict]:
    """Return the row of a point with a rate of its own, if it has the metric."""
    if metric not in point.rows[0].hits:
        return []
    estimate = measure([point], metric, features)
    value = Estimate(estimate.values[:, 0], estimate.influence[..., 0], point.seeded)
    return [row | {"rate": point.rates.values.mean()} | _value(value, sources)]


def _value(value: Estimate, sources: SharedSources) -> dict:
    found = interval_of(value, sources)
    (low, high), (method_low, method_high) = found.modules, found.method
    ends = {"ci_low": low, "ci_high": high, "method_ci_low": method_low, "method_ci_high": method_high}
    return {"value": found.value[0]} | {name: float(np.clip(end[0], 0, 1)) for name, end in ends.items()}


def _suffix(name: str) -> str:
    return "" if name == "difference" else f"_{name}"
