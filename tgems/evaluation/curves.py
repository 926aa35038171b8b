"""Curves of quality over realised rate, one per seed, with their height at a rate and the area under them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tgems.costs.exit_costs import ExitCosts
from tgems.evaluation.estimates import HEADLINE, Point, measure
from tgems.evaluation.uncertainty import Estimate
from tgems.features.cache import FeatureSet
from tgems.policies.interface import Policy

AREA_FROM, AREA_TO = 0.3, 0.9
Key = tuple[str, str | None, str | None]  # policy, twin_of, calibration


def _unknown(knot: int) -> tuple[np.ndarray, np.ndarray]:
    raise ValueError("a curve that was read from a file has no influences of images")


@dataclass(frozen=True)
class Curve:
    """One policy's curve for every seed: straight lines between knots, without extrapolation.

    Attributes:
        targets: Rate target of each knot; None for the ends of the curve and for fixed exits.
        rates: Rate of each knot `[S, k]`, in any order.
        values: Value of each knot `[S, k]`.
        influence: Function of a knot's index that returns the influences of images on the knot's rate and on its value,
            each `[S, n]`.
        seeded: Whether another seed would give another curve.
    """

    targets: list[float | None]
    rates: np.ndarray
    values: np.ndarray
    influence: Callable[[int], tuple[np.ndarray, np.ndarray]] = _unknown
    seeded: bool = True

    def knot(self, k: int) -> tuple[Estimate, Estimate]:
        """Return the rate and the value of a knot."""
        rate, value = self.influence(k)
        return Estimate(self.rates[:, k], rate, self.seeded), Estimate(self.values[:, k], value, self.seeded)

    def height(self, rate: float) -> float:
        """Return the mean over seeds of the height at a rate; NaN if a seed's curve does not reach it."""
        return float(np.mean([self._between(s, rate)[3] for s in range(len(self.rates))]))

    def read(self, rate: Estimate) -> Estimate:
        """Read the height at a rate, for each seed `[S]`; NaN outside a curve.

        To first order, the height changes with the values of the two knots around the rate, and by the slope times the
        change of the rate relative to theirs.
        """
        seeds = max(len(rate.values), len(self.rates))
        values, influences = np.empty(seeds), np.empty((seeds, rate.influence.shape[1]))
        for s in range(seeds):
            of_curve, of_rate = min(s, len(self.rates) - 1), min(s, len(rate.values) - 1)
            left, right, share, values[s], slope = self._between(of_curve, rate.values[of_rate])
            (x0, y0), (x1, y1) = ([part[of_curve] for part in self.influence(k)] for k in (left, right))
            moved = rate.influence[of_rate] - (1 - share) * x0 - share * x1
            influences[s] = (1 - share) * y0 + share * y1 + slope * moved
        return Estimate(values, influences, self.seeded or rate.seeded)

    def area(self, low: float = AREA_FROM, high: float = AREA_TO) -> np.ndarray:
        """Compute the mean height between two rates for each seed `[S]`; NaN if a curve does not reach both."""
        found = []
        for s in range(len(self.rates)):
            knots = np.unique(np.concatenate(([low, high], self.rates[s].clip(low, high))))
            heights = np.array([self._between(s, x)[3] for x in knots])
            found.append(float(np.trapezoid(heights, knots)) / (high - low))
        return np.array(found)

    def area_estimate(self, low: float = AREA_FROM, high: float = AREA_TO) -> Estimate:
        """Compute `area` with influences: the effect of a knot's value and rate is linear between its neighbours."""
        values, influences = self.area(low, high), []
        for s in range(len(self.rates)):
            order = np.argsort(self.rates[s], kind="stable")
            x, y = self.rates[s, order], self.values[s, order]
            total = 0.0
            for k in range(len(x) - 1):
                width, a, b = x[k + 1] - x[k], *np.clip((x[k], x[k + 1]), low, high)
                if width <= 0 or b <= a:
                    continue
                share = ((a + b) / 2 - x[k]) / width
                (x0, y0), (x1, y1) = ([part[s] for part in self.influence(order[j])] for j in (k, k + 1))
                slope = (y[k + 1] - y[k]) / width
                height = (1 - share) * (y0 - slope * x0) + share * (y1 - slope * x1)
                total = total + (b - a) * height
            influences.append(total / (high - low))
        return Estimate(values, np.stack(influences), self.seeded)

    def _between(self, s: int, x: float) -> tuple[int, int, float, float, float]:
        """Return the knots around a rate, the share of the right one, and the height and slope there."""
        order = np.argsort(self.rates[s], kind="stable")
        rates, values = self.rates[s, order], self.values[s, order]
        j = int(np.clip(np.searchsorted(rates, x), 1, len(rates) - 1))
        width = rates[j] - rates[j - 1]
        share = (x - rates[j - 1]) / width if width > 0 else 1.0
        outside = np.isnan(x) or x < rates[0] - 1e-12 or x > rates[-1] + 1e-12
        height = np.nan if outside else values[j - 1] + share * (values[j] - values[j - 1])
        slope = (values[j] - values[j - 1]) / width if width > 0 else 0.0
        return order[j - 1], order[j], share, height, slope


Curves = dict[str, dict[Key, Curve]]


def curves_of(
    points: list[Point],
    features: FeatureSet,
    policies: dict[str, Policy],
    costs: ExitCosts,
    normalisation: str = "none",
) -> Curves:
    """Make the curves of one split, as a mapping metric -> (policy, twin_of, calibration) -> curve.

    A curve begins with all images at the cheapest exit and ends with all images at the last. The curve of a policy that
    leaves computation unused, because accuracy falls with depth, continues at its last height.

    Args:
        points: Operating points and the ends of curves (`operating_points.endpoint_rows`).
        features: Features of the split.
        policies: Policies by name; oracles and the full encoder have no curve.
        costs: Costs of the exits.
        normalisation: `score_normalisation` of the curves.
    """
    own = [p for p in points if p.about["score_normalisation"] == normalisation]
    curves: Curves = {}
    for metric in HEADLINE:
        having = [p for p in own if metric in p.rows[0].hits]
        ends = {(p.about["policy"], len(p.seeds), p.seeds[0] is None): p for p in having}
        knots: dict[Key, list[Point]] = {}
        for point in having:
            about = point.about
            policy = policies.get(about.get("twin_of") or about["policy"])
            if policy is not None and not policy.oracle and policy.name != "full":
                knots.setdefault((about["policy"], about.get("twin_of"), about.get("calibration")), []).append(point)
        for key, middle in knots.items():
            policy, seeds = policies[key[1] or key[0]], middle[0].seeds
            first, last = (ends[f"endpoint_{end}", len(seeds), seeds[0] is None] for end in ("first", "last"))
            price = policy.costs(costs, len(features.texts))
            last = middle[-1] if policy.mixes and _unused(middle[-1]) else last
            curves.setdefault(metric, {})[key] = _curve(first, middle, last, price, metric, features)
    return curves


def _unused(point: Point, tolerance: float = 0.01) -> bool:
    """Return whether a mix of fixed exits spends less than its target by more than the draw explains."""
    return float(point.rates.values.mean()) < point.about["rate_target"] - tolerance


def _curve(
    first: Point, middle: list[Point], last: Point, price: np.ndarray, metric: str, features: FeatureSet
) -> Curve:
    targets = [p.about.get("rate_target") for p in middle]
    chosen = [first, *middle, last]
    points = [measure([p], metric, features) for p in chosen]
    rates = [np.full(len(first.seeds), price[0]), *(p.rates.values for p in middle)]
    rates.append(np.full(len(first.seeds), price[-1]))

    def influence(k: int) -> tuple[np.ndarray, np.ndarray]:
        value = measure([chosen[k]], metric, features).influence[..., 0]
        return (middle[k - 1].rates.influence if 0 < k < len(chosen) - 1 else np.zeros_like(value)), value

    values = np.stack([p.values[:, 0] for p in points], 1)
    return Curve([None, *targets, None], np.stack(rates, 1), values, influence, middle[0].seeded)


def as_frame(curves: Curves) -> pd.DataFrame:
    """Tabulate the knots of all curves."""
    frames = [
        pd.DataFrame({"rate_target": c.targets, "rate": c.rates[s], "value": c.values[s]}).assign(
            metric=metric, policy=policy, twin_of=twin_of, calibration=calibration, curve=s
        )
        for metric, by_key in curves.items()
        for (policy, twin_of, calibration), c in by_key.items()
        for s in range(len(c.rates))
    ]
    return pd.concat(frames, ignore_index=True)


def from_frame(frame: pd.DataFrame) -> Curves:
    """Restore the curves that `as_frame` tabulated, without their influences."""
    curves: Curves = {}
    names = ["metric", "policy", "twin_of", "calibration"]
    for key, part in frame.groupby(names, dropna=False, sort=False):
        metric, policy, twin_of, calibration = (None if k is None or k != k else str(k) for k in key)
        seeds = [own for _, own in part.groupby("curve", sort=True)]
        targets = [None if pd.isna(t) else t for t in seeds[0]["rate_target"]]
        rates, values = (np.stack([own[name].to_numpy() for own in seeds]) for name in ("rate", "value"))
        by_key = curves.setdefault(str(metric), {})
        by_key[str(policy), twin_of, calibration] = Curve(targets, rates, values)
    return curves
