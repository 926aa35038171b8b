"""Fit policies on validation features only, and store their operating points as JSON."""

import logging
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from tgems.costs.exit_costs import ExitCosts
from tgems.errors import UserError
from tgems.evaluation.split import Split
from tgems.evaluation.uncertainty import SharedSources
from tgems.policies.interface import OperatingPoint, Policy, ThresholdPolicy
from tgems.provenance import RUN_AGAIN
from tgems.untrusted import Closed, Digest, Size, read_json_as

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """A policy's operating point for one seed, and its outcome on validation images.

    Attributes:
        policy: Name of the policy.
        seed: Seed of the modules; None for the frozen projection.
        point: The operating point.
        rate_validation: Mean rate on validation images.
        rate_variance: Variance of the rate over these images.
        exit_shares: Share of these images by exit.
        bank_size: Number of texts in the bank; None if the policy does not read it.
        n_sources: Number of distinct sources of the validation images.
        score_normalisation: `none` or `querybank`; the rate includes the cost of the query bank.
        spread: Spread of the scores on these images, the unit in which thresholds move when a rate is held
            (tgems/policies/online.py); None without thresholds.
    """

    policy: str
    seed: int | None
    point: OperatingPoint
    rate_validation: float
    rate_variance: float
    exit_shares: tuple[float, ...]
    bank_size: int | None
    n_sources: int
    score_normalisation: str = "none"
    spread: float | None = None


def usable(policies: dict[str, Policy], costs: ExitCosts) -> dict[str, Policy]:
    """Return the policies that can be used with these exits, and log why others cannot."""
    reasons = {name: policy.unusable(costs) for name, policy in policies.items()}
    for name, reason in reasons.items():
        if reason:
            logger.info("policy %s gives no rows: %s", name, reason)
    return {name: policy for name, policy in policies.items() if not reasons[name]}


def fit_policies(split: Split, policies: dict[str, Policy], rate_targets: list[float]) -> list[Fitted]:
    """Fit the policies that are evaluated with the modules of this split.

    Args:
        split: Validation images, and modules of one seed or none.
        policies: Policies by name.
        rate_targets: Mean rates not to be exceeded.
    """
    fitted = []
    n_sources = SharedSources(split.features.sources).n_sources
    for name, policy in policies.items():
        if not split.serves(policy):
            continue
        size = len(split.outputs.bank) if policy.needs_bank else None
        for point in policy.fit(split.outputs, rate_targets if split.rate_target is None else [split.rate_target]):
            price = policy.costs(split.costs, len(split.outputs.bank), point.visited)
            if policy.mixes:
                shares = policy.shares(point, len(price))
            else:
                exits = policy.decide(split.outputs, point).numpy()
                shares = np.bincount(exits, minlength=len(price)) / len(exits)
            mean = float(shares @ price)
            variance = 0.0 if policy.mixes else float(shares @ (price - mean) ** 2)
            known = (tuple(shares.tolist()), size, n_sources, split.score_normalisation)
            spread = policy.spread(split.outputs, point) if isinstance(policy, ThresholdPolicy) else None
            fitted.append(Fitted(name, split.seed, point, mean, variance, *known, spread))
    return fitted


def as_json(fitted: list[Fitted], manifest: dict, query_bank: dict | None) -> dict:
    """Return the content of `thresholds.json`."""
    return {
        "query_bank": query_bank,
        "thresholds": [asdict(f) for f in fitted],
        "weights": manifest["weights"],
        "preprocess": manifest["preprocess"],
        "validation": {"n": manifest["n"], "shards": manifest["shards"], "prompts": manifest["prompts"]},
    }


class ChosenQueryBank(Closed):
    """Number of captions and inverse temperature of a query bank."""

    query_bank_size: Size
    query_bank_beta: float


class SavedThresholds(Closed):
    """The content of `thresholds.json`, as `as_json` makes it."""

    query_bank: ChosenQueryBank | None
    thresholds: tuple[Fitted, ...]
    weights: Digest
    preprocess: str
    validation: dict[str, JsonValue]


def read_thresholds(path: Path, costs: ExitCosts) -> SavedThresholds:
    """Read operating points.

    Args:
        path: `thresholds.json`.
        costs: Costs of the exits that the points must fit.

    Raises:
        UserError: The file is missing or damaged, or a point is of other exits.
    """
    saved = read_json_as(SavedThresholds, path, RUN_AGAIN)
    before_last = len(costs.blocks) - 1
    for fit in saved.thresholds:
        if not is_of_exits(fit.point, before_last) or len(fit.exit_shares) != before_last + 1:
            raise UserError(f"{path}: a point of policy {fit.policy!r} is not of {before_last + 1} exits; {RUN_AGAIN}")
    return saved


def is_of_exits(point: OperatingPoint, before_last: int) -> bool:
    """Return whether a point that was read from a file fits a number of exits before the last."""
    visited = range(before_last) if point.visited is None else point.visited
    fits = all(a < b for a, b in pairwise([-1, *visited, before_last]))
    if point.thresholds is not None:
        fits &= len(point.thresholds) == len(visited)
    return fits and 0 <= (point.exit or 0) <= before_last
