"""A trained T-GEM without its backbone: policy, exit modules, costs, and thresholds for several data sets."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tgems.costs.exit_costs import ExitCosts
from tgems.errors import UserError
from tgems.exits.modules import ExitHeads, Gates
from tgems.policies.interface import Policy, remembers


@dataclass(frozen=True)
class Calibration:
    """An operating point of a policy, fitted on validation images of one data set.

    Attributes:
        thresholds: Threshold of the score at each exit of `visited`; None if all images leave at `visited[0]`.
        visited: Exits (0-based) at which images may leave; None for all before the last.
        rate_validation: Mean relative cost on the validation images.
        spread: Spread of the scores on the validation images, the unit in which thresholds move when a rate is held;
            None for a fixed exit, and for folders that were saved without it.
        made: How `tgems.runtime.calibration.calibrate` made it; None if it was fitted in a run of the workflow.
    """

    thresholds: tuple[float, ...] | None
    visited: tuple[int, ...] | None
    rate_validation: float
    spread: float | None = None
    made: dict | None = None


@dataclass(frozen=True)
class EarlyExit:
    """A trained T-GEM: its policy and exit modules, their costs, and its calibrations.

    Attributes:
        policy: A policy that decides image by image.
        rate_target: Mean relative cost that it was calibrated for; None for a fixed exit.
        costs: Costs of the exits.
        heads: Heads of all exits before the last; None if the frozen pooling and projection take their place.
        gates: The policy's gates, or None.
        calibrations: Operating points by data set; the first is the default.
        about: Further information: seed, variant, results, versions.
    """

    policy: Policy
    rate_target: float | None
    costs: ExitCosts
    heads: ExitHeads | None
    gates: Gates | None
    calibrations: dict[str, Calibration]
    about: dict = field(default_factory=dict)

    def __post_init__(self):
        if not self.policy.runs:
            raise UserError(
                f"policy {self.policy.name!r} does not decide image by image, so that it cannot be run; use another, "
                "such as 'tgem'"
            )
        if not self.calibrations:
            raise UserError(f"policy {self.policy.name!r} has no thresholds; give those of one data set at least")

    def rates(self, calibration: str | None = None, bank_size: int = 0) -> np.ndarray:
        """Return the relative cost `[E]` of leaving at each exit, including all that the policy reads on the way.

        Args:
            calibration: Data set; None for the first.
            bank_size: Number of texts that the policy looks at.
        """
        visited = self.calibrations[calibration or next(iter(self.calibrations))].visited
        return self.policy.costs(self.costs, bank_size, visited)

    def open_exits(self, calibration: str) -> tuple[int, ...]:
        """Return the exits (0-based) at which images may leave."""
        visited = self.calibrations[calibration].visited
        return tuple(range(len(self.costs.blocks) - 1)) if visited is None else visited

    def asked_exits(self, open_exits: Sequence[int]) -> tuple[int, ...]:
        """Return the exits at which the policy is evaluated (`asked_exits`)."""
        return asked_exits(self.policy, self.costs, open_exits)


def asked_exits(policy: Policy, costs: ExitCosts, open_exits: Sequence[int]) -> tuple[int, ...]:
    """Return the exits at which a policy is evaluated: the open ones, or all up to the last of them if it remembers."""
    if remembers(policy.reads(costs)):
        return tuple(range(max(open_exits, default=-1) + 1))
    return tuple(open_exits)


def exits_within(
    rates: np.ndarray, open_exits: Sequence[int], max_rate: float | None
) -> tuple[tuple[int, ...], int | None]:
    """Choose the exits at which images may leave under a cap.

    Rates need not ascend: an exit before the last can cost more than the whole encoder, since its head and gates are
    paid for as well. Images pass such an exit and leave at a later one. Rates still count its gate, so that they are
    upper bounds.

    Args:
        rates: Relative cost of every exit `[E]`.
        open_exits: Exits (0-based) at which images may leave without a cap.
        max_rate: Cap, or None.

    Returns:
        The exits of `open_exits` that the cap allows, and the one of them at which all remaining images must leave;
        None if the cap allows the whole encoder.

    Raises:
        UserError: The cap allows no exit.
    """
    if max_rate is None:
        return tuple(open_exits), None
    within = tuple(k for k in open_exits if rates[k] <= max_rate)
    if rates[-1] <= max_rate:
        return within, None
    if not within:
        cheapest = min(rates[k] for k in open_exits)
        raise UserError(
            f"max_rate {max_rate:g} is below the cheapest exit of this model, which costs {cheapest:.4f} of the "
            "encoder; raise it"
        )
    return within, within[-1]
