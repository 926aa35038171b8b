"""Fit a policy to the outputs of one's own images: for a mean rate, or for a promised quality."""

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import torch

from tgems.errors import UserError
from tgems.evaluation.graded_losses import certified_point, enough_graded_images
from tgems.evaluation.risk_control import allowed_losses, certified_points, enough_images
from tgems.policies.cached_outputs import CachedOutputs
from tgems.policies.careful_path import careful_path
from tgems.policies.chosen_exits import fit_among
from tgems.policies.interface import ThresholdPolicy
from tgems.policies.lost_texts import lost_texts
from tgems.policies.operating_point import OperatingPoint
from tgems.runtime.neighbour_losses import NeighbourLosses
from tgems.runtime.tgem_info import NEIGHBOURS

FOLDS = 5
LARGEST_OWN_BANK = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Forecast:
    """Mean rate to expect of the next images: the estimate, and the ends of its 95 percent prediction interval."""

    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class OwnFit:
    """A policy, its outputs on the images, and what forecast and promise are about.

    Attributes:
        policy: The policy.
        outputs: Its outputs on the images.
        has_texts: Whether there are texts.
        upcoming: Number of the next images that forecast and promise are about.
        seed: Seed of all random divisions.
        among: Exits (0-based) at which a fit for a rate may let images leave; None for all before the last.
    """

    policy: ThresholdPolicy
    outputs: CachedOutputs
    has_texts: bool
    upcoming: int
    seed: int
    among: tuple[int, ...] | None = None

    def for_rate(self, target: float) -> tuple[OperatingPoint, Forecast]:
        """Fit thresholds to all images for a mean rate."""
        point, lowest = self._fitted(self.outputs, [target, 0.0])
        least = self._rates(self.outputs, lowest).mean()
        if least > target + 1e-9:
            raise UserError(
                f"rate {target:g} cannot be reached: on these images, policy {self.policy.name!r} spends between "
                f"{least:.3f} and 1 of the encoder; choose a rate within"
            )
        if point.visited == ():
            raise UserError(
                f"rate {target:g}: on these images, no threshold of policy {self.policy.name!r} saves computation and "
                "costs that little; lower the rate, or use the backbone itself"
            )
        rates = np.empty(len(self.outputs))
        for part in np.array_split(np.random.default_rng(self.seed).permutation(len(rates)), FOLDS):
            others = np.setdiff1d(np.arange(len(rates)), part)
            (own,) = self._fitted(self._some(others), [target])
            rates[part] = self._rates(self._some(part), own)
        return point, self._forecast(rates, self.policy.costs(self.outputs.costs, self._bank_size, point.visited))

    def for_quality(self, target: float, tolerance: float, level: float) -> tuple[OperatingPoint, Forecast]:
        """Find the cheapest operating point for which it can be certified what the next images lose at most."""
        order = np.random.default_rng(self.seed).permutation(len(self.outputs))
        fitted = fitted_images(len(order), self.has_texts)
        fitting, rest = self._some(np.sort(order[:fitted])), self._some(order[fitted:])
        allowed = allowed_or_refused(len(order), tolerance, self.upcoming, level, self.has_texts)
        path = careful_path(self.policy, self._with_bank(fitting), target)
        aim = (tolerance, self.upcoming, level)
        if self.has_texts:
            lost = lost_texts(self.policy, rest, path)
            chosen = certified_points(lost, allowed) - 1
        else:
            neighbours = NeighbourLosses(self.policy, fitting, rest, NEIGHBOURS, path)
            chosen = certified_point(neighbours.of_collection(), neighbours.at, len(rest), *aim)
        if chosen < 0:
            first = np.zeros(1) if not path else lost[:, 0] if self.has_texts else neighbours.at(0)
            needed = enough_images(first.mean(), *aim) if self.has_texts else enough_graded_images(first, *aim)
            advice = _enough(needed, self.has_texts)
            raise UserError(
                f"keep {1 - tolerance:g} for {self.upcoming:,} images: only the full encoder can be certified, since "
                f"the first step below it loses {first.mean():.3f} on {len(rest):,} images; {advice}"
            )
        price = self.policy.costs(self.outputs.costs, self._bank_size, path[chosen].visited)
        return path[chosen], self._forecast(self._rates(rest, path[chosen]), price)

    @property
    def _bank_size(self) -> int:
        return len(self.outputs.bank) if self.has_texts else 0

    def _some(self, rows: np.ndarray) -> CachedOutputs:
        return self.outputs.select(torch.from_numpy(rows))

    def _with_bank(self, outputs: CachedOutputs) -> CachedOutputs:
        return outputs if self.has_texts else with_own_bank(self.policy, outputs)

    def _fitted(self, outputs: CachedOutputs, targets: list[float]) -> list[OperatingPoint]:
        outputs = self._with_bank(outputs)
        if self.among is None:
            return self.policy.fit(outputs, targets)
        return fit_among(self.policy, outputs, targets, self.among)

    def _rates(self, outputs: CachedOutputs, point: OperatingPoint) -> np.ndarray:
        price = self.policy.costs(self.outputs.costs, self._bank_size, point.visited)
        return price[self.policy.decide(outputs, point).numpy()]

    def _forecast(self, rates: np.ndarray, price: np.ndarray) -> Forecast:
        """Predict the mean rate of the next images, whose own draw counts as well as that of the calibration images."""
        n, mean = len(rates), float(rates.mean())
        half = student_quantile(0.5 + LEVEL / 2, n - 1) * rates.std(ddof=1) * np.sqrt(1 / n + 1 / self.upcoming)
        return Forecast(mean, max(mean - half, float(price.min())), min(mean + half, float(price.max())))


def with_own_bank(policy: ThresholdPolicy, outputs: CachedOutputs) -> CachedOutputs:
    """Let each exit look for the full encoder's embeddings of the images themselves, in place of texts."""
    if not policy.per_exit:
        return outputs
    return replace(outputs, bank=outputs.embeddings[:LARGEST_OWN_BANK, -1])


def fitted_images(n: int, has_texts: bool) -> int:
    """Return how many of n images operating points are fitted on; the others certify one of them.

    Without texts the former are also the collection in which neighbours are looked for.
    """
    return n // 3 if has_texts else n // 2


def allowed_or_refused(n: int, tolerance: float, upcoming: int, level: float, has_texts: bool) -> int:
    """Return `allowed_losses` of those of n images that certify, of which every loss is 0 or 1 if there are texts.

    Raises:
        UserError: No loss is few enough for so few images.
    """
    allowed = allowed_losses(n - fitted_images(n, has_texts), tolerance, upcoming, level, has_texts)
    if allowed < 0:
        needed = _enough(enough_images(0.0, tolerance, upcoming, level, has_texts), has_texts)
        raise UserError(
            f"keep {1 - tolerance:g} for {upcoming:,} images: cannot be promised from {n:,} images; {needed}"
        )
    return allowed


def _enough(needed: int | None, has_texts: bool) -> str:
    """Say how many images would do, of which so many certify."""
    if needed is None:
        return "ask for less"
    return f"about {needed + needed // 2 if has_texts else 2 * needed:,} images would do, or ask for less"


def student_quantile(probability: float, degrees: int) -> float:
    """Return a quantile of Student's t to second order in 1 / degrees (Cornish and Fisher, 1938); for 10 or more."""
    z = NormalDist().inv_cdf(probability)
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
