"""Fit policies on validation features only, and keep their operating points as JSON."""

import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tgems.costs.exit_costs import ExitCosts
from tgems.evaluation.split import Split
from tgems.evaluation.uncertainty import SharedSources
from tgems.policies.interface import OperatingPoint, Policy

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


def usable(policies: dict[str, Policy], costs: ExitCosts) -> dict[str, Policy]:
    """Return the policies that can be used at exits of such costs; log why others cannot."""
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
            fitted.append(Fitted(name, split.seed, point, mean, variance, *known))
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


def from_json(value: dict) -> list[Fitted]:
    """Restore the operating points from the content of `thresholds.json`."""
    return [
        Fitted(**f | {"point": _point(f["point"]), "exit_shares": tuple(f["exit_shares"])}) for f in value["thresholds"]
    ]


def _point(value: dict) -> OperatingPoint:
    lists: dict[str, Any] = {k: None if value[k] is None else tuple(value[k]) for k in ("visited", "thresholds")}
    return OperatingPoint(**value | lists)
