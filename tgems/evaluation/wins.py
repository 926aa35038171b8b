"""Compare each T-GEM with other policies at the rate that it realises, and compute the areas under all curves."""

from collections.abc import Collection

import numpy as np
import pandas as pd

from tgems.evaluation.curves import Curve, Curves, Key
from tgems.evaluation.estimates import direction_of
from tgems.evaluation.uncertainty import Estimate, Intervals, SharedSources, intervals
from tgems.policies.interface import Policy

IMAGE_TO_TEXT = "text_retrieval_recall@1"
OUTSIDE = "the rate lies outside of the other's curve"
ALIKE = "all images share sources, so that their sampling error is unknown"
ONE_SEED = "one seed, so that what another would give is unknown"


def of_other_domain(validation: Curves, test: Curves) -> Curves:
    """Return another data set's validation curves, to pick competitors if there are no validation images.

    If that data set, which has captions, lacks a metric, image-to-text recall takes its place: like accuracy, it is the
    share of images whose right text ranks first.

    Args:
        validation: Curves of the data set that thresholds come from.
        test: Curves whose metrics are wanted.
    """
    return {metric: validation.get(metric, validation[IMAGE_TO_TEXT]) for metric in test}


def areas(test: Curves, validation: Curves, sources: SharedSources, about: dict) -> pd.DataFrame:
    """Compute the area under every curve: on test with both intervals, and on validation if that is given."""
    records = []
    for metric, by_key in test.items():
        for key, curve in by_key.items():
            found = interval_of(curve.area_estimate(), sources)
            seen = validation.get(metric, {}).get(key)
            names = dict(zip(("policy", "twin_of", "calibration"), key, strict=True))
            values = {"area_validation": np.nan if seen is None else seen.area().mean(), "area": found.value[0]}
            ends = _ends(found, ("ci", "method_ci"))
            records.append(about | {"direction": direction_of(metric), "metric": metric} | names | values | ends)
    return pd.DataFrame(records)


def wins(
    test: Curves, validation: Curves, policies: dict[str, Policy], sources: SharedSources, about: dict
) -> pd.DataFrame:
    """Compare each T-GEM at every rate target with the best other policy, with its shuffled twin and with the hull.

    The best other policy is the one whose validation curve is highest at the rate that the T-GEM realises. Its test
    curve is read at that rate.

    Args:
        test: Curves of test images.
        validation: Curves of the same policies under in-domain thresholds, for picking.
        policies: Policies by name; the contenders among them are compared with all others.
        sources: Sources of the test images.
        about: Columns common to all rows.

    Returns:
        One row per T-GEM, calibration, target and `against` (`best`, `shuffled`, `hull`). If nothing can be concluded,
        p and intervals are NaN, and `reason` says why.
    """
    records, contenders = [], [name for name, policy in policies.items() if policy.contender]
    for metric, ours in test.items():
        for key, own in ours.items():
            if key[0] not in contenders:
                continue
            for j, target in [(j, t) for j, t in enumerate(own.targets) if t is not None]:
                rate, value = own.knot(j)
                best = best_policy(validation[metric], float(rate.values.mean()), excluded=contenders)
                others = {"best": best, "shuffled": ("shuffled", key[0], key[2]), "hull": ("hull", None, "in_domain")}
                for against, name in others.items():
                    competitor = name and ours.get((name[0], name[1], name[2] and key[2]))
                    if competitor is None:
                        continue
                    # A twin takes the same exits, so that its rate varies with the T-GEM's.
                    opponent = competitor.knot(j)[1] if against == "shuffled" else competitor.read(rate)
                    records.append(
                        about
                        | {"direction": direction_of(metric), "metric": metric, "policy": key[0], "calibration": key[2]}
                        | {"rate_target": target, "rate": rate.values.mean(), "value": value.values.mean()}
                        | {"against": against, "competitor": name[0], "competitor_value": opponent.values.mean()}
                        | difference(value - opponent, sources)
                    )
    return pd.DataFrame(records)


def best_policy(
    curves: dict[Key, Curve], rate: float, among: Collection[str] | None = None, excluded: Collection[str] = ()
) -> Key | None:
    """Return the policy, not a shuffled twin, whose curve is highest at a rate; None if no curve reaches it.

    Args:
        curves: Curves of one metric.
        rate: Mean rate.
        among: Names to choose from; None for all.
        excluded: Names to leave out.
    """
    heights = {
        key: curve.height(rate)
        for key, curve in curves.items()
        if key[0] != "shuffled" and key[0] not in excluded and (among is None or key[0] in among)
    }
    heights = {key: height for key, height in heights.items() if not np.isnan(height)}
    return max(heights, key=heights.__getitem__) if heights else None


def difference(estimate: Estimate, sources: SharedSources) -> dict:
    """Describe a difference: both intervals, the p value of the method, and the reason if there is none."""
    found = interval_of(estimate, sources)
    unknown = {OUTSIDE: found.value, ALIKE: found.of_images, ONE_SEED: found.of_seeds}
    reason = next((why for why, number in unknown.items() if np.isnan(number[0])), "")
    return {"difference": found.value[0]} | _ends(found, ("ci", "method_ci")) | {"p": found.p[0], "reason": reason}


def interval_of(estimate: Estimate, sources: SharedSources) -> Intervals:
    """Compute `intervals` of one number `[S]`."""
    return intervals(Estimate(estimate.values[:, None], estimate.influence[..., None], estimate.seeded), sources)


def _ends(found: Intervals, names: tuple[str, str]) -> dict:
    """Return the ends of both intervals by column."""
    return {
        f"{name}_{end}": ends[0] if np.isfinite(found.value[0]) else np.nan
        for name, interval in zip(names, (found.modules, found.method), strict=True)
        for end, ends in zip(("low", "high"), interval, strict=True)
    }
