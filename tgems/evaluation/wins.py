"""Who wins: each T-GEM against the best other policy at the same realised rate, and areas under all curves.

The competitor is picked on validation; on test its curve is read at the T-GEM's realised rate within each resample.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tgems.evaluation.bootstrap import interval
from tgems.evaluation.curves import area, interpolate
from tgems.evaluation.estimates import HEADLINE, Estimates, direction_of
from tgems.exits.policies import Policy
from tgems.profiling.costs import ExitCosts

CONTENDERS = ("tgem", "tgem_bank")
IMAGE_TO_TEXT = "text_retrieval_recall@1"


@dataclass(frozen=True)
class Curve:
    """One policy's curve, mean over seeds: the split itself in row 0, its resamples below.

    Attributes:
        rates: `[1 + R, k]`.
        values: `[1 + R, k]`.
        targets: Rate target of each knot, None for the ends of the curve and for fixed exits.
    """

    rates: np.ndarray
    values: np.ndarray
    targets: list[float | None]


Curves = dict[str, dict[tuple, Curve]]


def curves_of(
    estimates: Estimates, policies: dict[str, Policy], costs: ExitCosts, bank_size: int, normalisation: str = "none"
) -> Curves:
    """Curves of one split: metric -> (policy, twin_of, calibration) -> curve, means over seeds.

    Args:
        estimates: Of the split, with the rows of `endpoint_rows` among them.
        policies: By name; oracles, and policies of the backbone alone, have no curve.
        costs: Of the exits.
        bank_size: Texts in the bank.
        normalisation: `score_normalisation` of the curves.
    """
    ends = {name: p.costs(costs, bank_size)[[0, -1]] for name, p in policies.items() if not (p.oracle or p.frozen_head)}
    curves = {m: _curves(estimates, m, ends, normalisation) for m in HEADLINE if m in estimates.metrics}
    return {m: by_key for m, by_key in curves.items() if by_key}


def _curves(estimates: Estimates, metric: str, ends: dict[str, np.ndarray], normalisation: str) -> dict[tuple, Curve]:
    part = estimates.metrics[metric]
    values = np.vstack((part.value, part.samples))
    rates = np.vstack((estimates.rate, estimates.rate_samples))[:, part.rows]
    abouts = [estimates.rows[i].about for i in part.rows]
    own = [j for j, about in enumerate(abouts) if about["score_normalisation"] == normalisation]
    means = [j for j in own if abouts[j].get("seed") == "mean"]
    end = {abouts[j]["policy"]: values[:, [j]] for j in means if abouts[j]["policy"].startswith("endpoint")}
    knots: dict[tuple, list[int]] = {}
    for j in means:
        key = tuple(abouts[j].get(k) for k in ("policy", "twin_of", "calibration"))
        if (key[1] or key[0]) in ends:
            knots.setdefault(key, []).append(j)
    one = np.ones((len(values), 1))
    return {
        key: Curve(
            np.hstack((one * ends[key[1] or key[0]][0], rates[:, columns], one * ends[key[1] or key[0]][1])),
            np.hstack((end["endpoint_first"], values[:, columns], end["endpoint_last"])),
            [None, *(abouts[j].get("rate_target") for j in columns), None],
        )
        for key, columns in knots.items()
    }


def as_frame(curves: Curves) -> pd.DataFrame:
    """The knots of all curves on the split itself, tidy."""
    frames = [
        pd.DataFrame({"rate_target": c.targets, "rate": c.rates[0], "value": c.values[0]}).assign(
            metric=metric, policy=policy, twin_of=twin_of, calibration=calibration
        )
        for metric, by_key in curves.items()
        for (policy, twin_of, calibration), c in by_key.items()
    ]
    return pd.concat(frames, ignore_index=True)


def from_frame(frame: pd.DataFrame) -> Curves:
    """Read back what `as_frame` gave."""
    curves: Curves = {}
    keys = ["metric", "policy", "twin_of", "calibration"]
    for (metric, *key), part in frame.groupby(keys, dropna=False, sort=False):
        targets = [None if np.isnan(t) else t for t in part["rate_target"]]
        curve = Curve(part["rate"].to_numpy()[None], part["value"].to_numpy()[None], targets)
        curves.setdefault(metric, {})[tuple(None if pd.isna(k) else k for k in key)] = curve
    return curves


def of_other_domain(validation: Curves, test: Curves) -> Curves:
    """Another data set's validation curves, to pick competitors for one that has no validation images.

    Where that data set, which has captions, lacks a metric, image-to-text recall stands in for it: like accuracy it is
    of images that look for their text.

    Args:
        validation: Curves of the data set that thresholds come from.
        test: Curves whose metrics are wanted.
    """
    return {metric: validation.get(metric, validation[IMAGE_TO_TEXT]) for metric in test}


def areas(test: Curves, validation: Curves, about: dict) -> pd.DataFrame:
    """Area under every curve: on test with its interval over resamples, and on validation where that is given."""
    records = []
    for metric, by_key in test.items():
        for key, curve in by_key.items():
            value, *samples = area(curve.rates, curve.values)
            low, high = interval(np.array(samples))
            seen = validation.get(metric, {}).get(key)
            before = np.nan if seen is None else area(seen.rates, seen.values)[0]
            names = dict(zip(("policy", "twin_of", "calibration"), key, strict=True))
            values = {"area_validation": before, "area": value, "ci_low": low, "ci_high": high}
            records.append(about | {"direction": direction_of(metric), "metric": metric} | names | values)
    return pd.DataFrame(records)


def wins(test: Curves, validation: Curves, about: dict) -> pd.DataFrame:
    """Compare each T-GEM with the policy that was best on validation at the same rate.

    p is two-sided, of a normal with the bootstrap's deviation; the tables correct it over rates and data sets.

    Args:
        test: Curves with resamples.
        validation: Curves of the same policies under in-domain thresholds, for picking.
        about: Common columns.
    """
    records = []
    for metric, ours in test.items():
        for key, own in ours.items():
            seen = validation[metric].get((key[0], None, "in_domain"))
            if key[0] not in CONTENDERS or seen is None:
                continue
            for j, target in [(j, t) for j, t in enumerate(own.targets) if t is not None]:
                name = _best(validation[metric], seen.rates[0, seen.targets.index(target)])
                if name is None:
                    continue
                theirs = ours[(name[0], None, name[2] and key[2])]
                read = interpolate(own.rates[:, j], theirs.rates, theirs.values)
                records.append(
                    about
                    | {"direction": direction_of(metric), "metric": metric, "policy": key[0], "calibration": key[2]}
                    | {"rate_target": target, "rate": own.rates[0, j], "value": own.values[0, j]}
                    | {"competitor": name[0], "competitor_value": read[0]}
                    | _difference(own.values[:, j] - read)
                )
    return pd.DataFrame(records)


def _best(curves: dict[tuple, Curve], rate: float) -> tuple | None:
    """The policy, no T-GEM and no twin of one, whose validation curve is highest at a rate."""
    read = {
        key: float(interpolate(np.array([rate]), c.rates[:1], c.values[:1])[0])
        for key, c in curves.items()
        if key[0] not in (*CONTENDERS, "shuffled")
    }
    read = {key: value for key, value in read.items() if not np.isnan(value)}
    return max(read, key=read.get) if read else None


def _difference(samples: np.ndarray) -> dict:
    """Difference on the split (first), its interval and p value over resamples (rest)."""
    difference, resampled = samples[0], samples[1:]
    low, high = interval(resampled)
    deviation = resampled.std(ddof=1)
    p = math.erfc(abs(difference) / deviation / math.sqrt(2)) if deviation > 0 else float(difference == 0)
    return {"difference": difference, "ci_low": low, "ci_high": high, "p": p}
