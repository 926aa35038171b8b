"""Apply policies whose thresholds move after every image, so that a stream holds its rate target."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np

from tgems.evaluation.operating_points import Row, Scorer, fits_of, identity
from tgems.evaluation.split import Split
from tgems.evaluation.thresholds import Fitted
from tgems.policies.interface import Policy, ThresholdPolicy
from tgems.policies.online import HeldRate, moved_thresholds, unreachable
from tgems.policies.per_exit_thresholds import exits_taken

logger = logging.getLogger(__name__)
ROWS = 1024


def online_rows(split: Split, policies: dict[str, Policy], fitted: Sequence[Fitted]) -> Iterator[Row]:
    """Yield the rows of operating points that hold their rate targets on a split, one image after the other.

    Args:
        split: Images, and modules of one seed (or none).
        policies: Policies by name; those without thresholds have no such rows.
        fitted: Operating points to start with.
    """
    held = [
        (fit, policy, policy.costs(split.costs, len(split.outputs.bank), fit.point.visited))
        for fit, policy in fits_of(split, policies, list(fitted))
        if isinstance(policy, ThresholdPolicy) and fit.spread is not None
    ]
    held = [one for one in held if _is_reachable(one[0], one[2])]
    if not held:
        return
    scores = [policy.scores(split.outputs, fit.point.rate_target).numpy() for fit, policy, _ in held]
    exits = exits_of_streams(
        scores,
        np.stack([fit.point.at_exits(s.shape[1]).numpy() for (fit, _, _), s in zip(held, scores, strict=True)]),
        np.array([fit.spread for fit, _, _ in held]),
        np.stack([prices for _, _, prices in held]),
        np.array([fit.point.rate_target for fit, _, _ in held]),
        stream_order(len(split.outputs), split.seed),
    )
    scorer = Scorer(split)
    for (fit, policy, prices), own in zip(held, exits, strict=True):
        about = identity(fit, policy, "online", split)
        about.pop("threshold", None)
        yield Row(about, prices[own], scorer.at(own, policy.index_safe), own)


def exits_of_streams(
    scores: Sequence[np.ndarray],
    thresholds: np.ndarray,
    spreads: np.ndarray,
    prices: np.ndarray,
    targets: np.ndarray,
    order: np.ndarray,
) -> np.ndarray:
    """Return the exits that images take in streams, each of which is held to its rate by a separate controller.

    All streams advance together, image by image.

    Args:
        scores: Scores of the images at every exit before the last, per stream `[n, E-1]`.
        thresholds: Thresholds to start with `[m, E-1]`; +inf at exits that are not visited.
        spreads: Spread of the scores `[m]`.
        prices: Relative cost of leaving at each exit `[m, E]`.
        targets: Mean rates to hold `[m]`.
        order: Images in the order of the streams `[n]`.

    Returns:
        Exit of each image, in the order of the scores `[m, n]` int64.
    """
    state, exits = HeldRate.start(targets), np.empty((len(targets), len(order)), dtype=np.int64)
    for start in range(0, len(order), ROWS):
        rows = order[start : start + ROWS]
        for row, seen in zip(rows, np.stack([own[rows] for own in scores], 1), strict=True):
            taken = exits_taken(seen, moved_thresholds(thresholds, spreads, state.offset))
            exits[:, row] = taken
            state = state.after(np.take_along_axis(prices, taken[:, None], 1))
    return exits


def stream_order(n: int, seed: int | None) -> np.ndarray:
    """Return the order `[n]` in which the images of a split form a stream; each seed has another random order."""
    return np.random.default_rng([seed or 0, n]).permutation(n)


def _is_reachable(fit: Fitted, prices: np.ndarray) -> bool:
    visited = range(len(prices)) if fit.point.visited is None else (*fit.point.visited, len(prices) - 1)
    reason = unreachable(fit.point.rate_target or 0.0, prices[visited[0]], prices[-1])
    if reason:
        logger.info("policy %s, seed %s, has no online row: %s", fit.policy, fit.seed, reason)
    return not reason
