"""Hold the mean rate of a stream with the thresholds of a trained T-GEM."""

from threading import Lock

import numpy as np

from tgems.errors import UserError
from tgems.policies.online import HeldRate, moved_thresholds, unreachable
from tgems.runtime.early_exit import EarlyExit

OBSERVING = Lock()
"""Lock of the replacement of a `HeldRate`; all models share it, since a model with a lock could not be copied."""


def held_target(held: HeldRate | None) -> float | None:
    """Return the rate that is held, or None."""
    return None if held is None else float(held.target)


def moved(thresholds: dict[int, float], spread: float | None, held: HeldRate | None) -> dict[int, float]:
    """Return the thresholds of open exits as they are now."""
    if held is None or spread is None:
        return thresholds
    now = moved_thresholds(np.array(list(thresholds.values())), spread, held.offset)
    return dict(zip(thresholds, now.tolist(), strict=True))


def start_holding(early: EarlyExit, calibration: str, ends: np.ndarray, rate: float) -> HeldRate:
    """Return the state of a controller before the first image.

    Args:
        early: Trained T-GEM.
        calibration: Data set whose thresholds are moved.
        ends: Relative costs of an image that leaves at the first open exit, and of one that never leaves early.
        rate: Mean relative cost to hold.

    Raises:
        UserError: There are no thresholds, the unit in which they move is unknown, or the rate cannot be reached.
    """
    point = early.calibrations[calibration]
    if point.thresholds is None:
        raise UserError(f"policy {early.policy.name!r} has no thresholds to move, so that it cannot hold a rate")
    if point.spread is None:
        raise UserError(
            f"the thresholds of {calibration!r} were saved without the spread of their scores, which is the unit in "
            "which they move; export this T-GEM again to hold a rate with it"
        )
    if reason := unreachable(rate, *ends):
        raise UserError(f"{reason} here; choose a rate between these")
    return HeldRate.start(rate)
