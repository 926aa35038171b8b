"""Read from the table `tradeoff` what figures draw: mean curves, values at a rate, and the strongest competitor."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from tgems.reporting.style import Looks

TOLERANCE = 0.02
"""How far below its first rate a curve may be read, since realised rates are never exactly the targets."""


class MeanCurve(NamedTuple):
    """Mean value over mean rate of one policy.

    Attributes:
        rates: Realised rates in ascending order `[k]`.
        values: Values of the metric `[k]`, in percent.
    """

    rates: np.ndarray
    values: np.ndarray

    def above(self, lowest: float) -> "MeanCurve":
        """Return the part of the curve at rates above `lowest`; all of it if that is NaN."""
        kept = ~(self.rates < lowest)
        return MeanCurve(self.rates[kept], self.values[kept])

    def at(self, rates: ArrayLike) -> np.ndarray:
        """Return values at rates by linear interpolation.

        A policy that needs less than a rate has its last value there. Values are NaN more than `TOLERANCE` below the
        first rate.
        """
        wanted = np.asarray(rates, dtype=float)
        if not len(self.rates):
            return np.full(wanted.shape, np.nan)
        return np.where(wanted >= self.rates[0] - TOLERANCE, np.interp(wanted, self.rates, self.values), np.nan)


def over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of means over seeds, and those of policies in which nothing is trained."""
    return rows[rows["seed"].eq("mean") | rows["seed"].isna()]


def mean_curve(means: pd.DataFrame, policy: str, twin_of: str | None = None) -> MeanCurve:
    """Return the curve of a policy in one panel.

    Args:
        means: Rows of one backbone, data set and metric, as means over seeds.
        policy: Name of the policy.
        twin_of: For `shuffled`, the policy whose exits are shuffled.
    """
    own = means[means["policy"] == policy]
    own = own[own["twin_of"] == twin_of] if twin_of else own
    own = own.sort_values("rate")
    return MeanCurve(own["rate"].to_numpy(), 100 * own["value"].to_numpy())


def reference(means: pd.DataFrame) -> str:
    """Return the policy from which differences are drawn: the hull of fixed exits, or fixed exits, or full encoder."""
    found = set(means["policy"])
    return next(policy for policy in ("hull", "fixed", "full") if policy in found)


def level(value: float) -> MeanCurve:
    """Return a curve with the same value (in percent) at all rates, such as that of the full encoder."""
    return MeanCurve(np.array([0.0, 1.0]), np.array([value, value]))


def reference_curve(means: pd.DataFrame, full: float) -> MeanCurve:
    """Return the curve of `reference`; `full` is the value of the full encoder in percent.

    As in `tgems.evaluation.curves`, the curve of the hull begins with all images at the cheapest exit.
    """
    name = reference(means)
    if name == "full":
        return level(full)
    curve, cheapest = mean_curve(means, name), mean_curve(means, "fixed")
    if len(cheapest.rates) and cheapest.rates[0] < curve.rates[0]:
        return MeanCurve(np.append(cheapest.rates[0], curve.rates), np.append(cheapest.values[0], curve.values))
    return curve


def strongest(areas: pd.DataFrame, looks: Looks) -> str | None:
    """Return the adaptive policy, not a T-GEM, with the largest area under its curve on validation images.

    Args:
        areas: Rows of the table `areas` for one backbone, data set and metric.
        looks: Policies of the run.
    """
    rivals = [policy for policy in looks.among(areas["policy"]) if looks[policy].rival]
    own = areas[areas["twin_of"].isna() & areas["policy"].isin(rivals)]
    own = own.dropna(subset="area_validation")
    best = own.sort_values("area_validation", ascending=False, kind="stable")["policy"]
    return None if best.empty else str(best.iloc[0])
