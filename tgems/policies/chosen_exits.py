"""Fit a policy's thresholds if it is evaluated at some of the exits only."""

from collections.abc import Sequence
from functools import partial

import torch

from tgems.costs.exit_costs import ExitCosts
from tgems.errors import UserError
from tgems.exits.thresholds import fit_threshold
from tgems.policies.cached_outputs import CachedOutputs
from tgems.policies.interface import ThresholdPolicy, remembers
from tgems.policies.operating_point import OperatingPoint
from tgems.policies.per_exit_thresholds import PathCosts, fit_thresholds


def require_choice(policy: ThresholdPolicy, costs: ExitCosts) -> None:
    """Refuse a policy whose exits cannot be chosen.

    Raises:
        UserError: It must be evaluated at every exit, or overrides `fit`.
    """
    if remembers(policy.reads(costs)):
        raise UserError(
            f"policy {policy.name!r} remembers what it saw at earlier exits, so it must be evaluated at all of them; "
            "calibrate it without choosing exits by time (--by-time)"
        )
    if type(policy).fit is not ThresholdPolicy.fit:
        raise UserError(
            f"policy {policy.name!r} has its own fit, for which exits cannot be chosen; calibrate it without "
            "choosing exits by time (--by-time)"
        )


def fit_among(
    policy: ThresholdPolicy, outputs: CachedOutputs, rate_targets: Sequence[float], exits: Sequence[int]
) -> list[OperatingPoint]:
    """Fit thresholds as `ThresholdPolicy.fit` does, with images leaving at some exits only; needs no labels.

    A policy with a threshold per exit may still choose fewer of them.

    Args:
        policy: A policy that `require_choice` accepts.
        outputs: Outputs on validation images.
        rate_targets: Mean relative costs not to be exceeded.
        exits: Exits (0-based) before the last at which images may leave.
    """
    prices = partial(policy.costs, outputs.costs, len(outputs.bank))
    allowed, points = list(exits), []
    for target in rate_targets:
        scores = policy.scores(outputs, target)
        closed = torch.full_like(scores, -torch.inf)
        closed[:, allowed] = scores[:, allowed]
        if policy.per_exit:
            rewards = outputs.last_exits_view.numpy()
            every = fit_thresholds(closed.numpy(), rewards, PathCosts.of(prices), target)
            points.append(OperatingPoint.visiting(target, every))
        else:
            threshold, _ = fit_threshold(closed, prices(tuple(allowed)), target)
            points.append(OperatingPoint(target, visited=tuple(allowed), thresholds=(threshold,) * len(allowed)))
    return points
