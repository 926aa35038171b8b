"""Tabulate what each policy spends if it promises to answer as the full encoder does, and whether it keeps the promise.

The promise: with probability .95 over the draw of calibration images, at most a given share of the test images lose the
full encoder's best text (docs/method.md#promises-of-quality).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tgems.evaluation.estimates import means
from tgems.evaluation.paths import FittedPath, SavedPaths, unpack
from tgems.evaluation.risk_control import allowed_losses, certified_points
from tgems.evaluation.split import Split
from tgems.evaluation.uncertainty import Estimate, SharedSources, intervals
from tgems.policies.interface import Policy
from tgems.policies.lost_texts import lost_texts

LEVEL = 0.05
RESPLITS = 200
COLUMNS = [
    *("backbone", "variant", "dataset", "policy", "guidance", "risk_target", "seed", "rate", "rate_ci_low"),
    *("rate_ci_high", "loss", "loss_ci_low", "loss_ci_high", "full_share", "exceeded", "exceeded_se", "points"),
    *("n_calibration", "n"),
]


@dataclass(frozen=True)
class Kept:
    """Outcome of one path and one risk target on the test images.

    Attributes:
        loss: Losses `[N]`.
        rates: Relative costs `[N]`.
        full: Whether no operating point could be certified, so that all images take the full encoder.
        exceeded: Share of resplits in which more images lost their text than was tolerated.
    """

    loss: np.ndarray
    rates: np.ndarray
    full: bool
    exceeded: float


def risk(
    splits: Sequence[Split],
    saved: SavedPaths | None,
    policies: dict[str, Policy],
    risk_targets: Sequence[float],
    about: dict,
) -> pd.DataFrame:
    """Tabulate policies that decide image by image: a row per risk target and seed, and one for the mean over seeds.

    Args:
        splits: Test images with the modules of each seed, and with the frozen projection.
        saved: Paths that were fitted on the data set's own validation images; None if it has none.
        policies: Policies by name.
        risk_targets: Shares of images that may lose the full encoder's best text.
        about: Columns common to all rows.

    Returns:
        `exceeded` is the share of `RESPLITS` random divisions of calibration and test images, image by image, in which
        the loss on the new test images exceeds the target, with its standard error; the path stays fixed, since it was
        fitted on neither. `full_share` is the share of seeds that fall back to the full encoder.
    """
    by_seed = {split.seed: split for split in splits if split.policies is None}
    records: list[dict] = []
    names = list(dict.fromkeys(path.policy for path in saved.paths)) if saved is not None else []
    if saved is None or not by_seed or not names:
        return pd.DataFrame(columns=COLUMNS)
    sources = SharedSources(splits[0].features.sources)
    draws = _draws(saved.n, sources.n)
    for name in names:
        own = [path for path in saved.paths if path.policy == name and path.seed in by_seed]
        kept = [_outcomes(path, saved.n, by_seed[path.seed], policies[name], risk_targets, draws) for path in own]
        for k, target in enumerate(risk_targets):
            row = {"policy": name, "guidance": policies[name].guidance, "risk_target": target}
            row |= {"n": sources.n, "n_calibration": saved.n}
            seeds, found = [path.seed for path in own], [outcomes[k] for outcomes in kept]
            records += _rows(row, seeds, found, [len(path.points) for path in own], sources)
    return pd.DataFrame(records).assign(**about).reindex(columns=COLUMNS)


def _outcomes(
    path: FittedPath, n: int, split: Split, policy: Policy, risk_targets: Sequence[float], draws: np.ndarray
) -> list[Kept]:
    """Certify a path for each risk target, and apply what was certified to the test images."""
    losses = lost_texts(policy, split.outputs, path.points)
    calibration = unpack(path.losses, n, len(path.points))
    resplits = Resplits.of(np.concatenate((calibration, losses)), draws)
    found = []
    for target in risk_targets:
        allowed = allowed_losses(n, target, len(losses), LEVEL)
        chosen = certified_points(calibration, allowed) - 1
        exceeded = resplits.broken(target, allowed)
        if chosen < 0:
            found.append(Kept(np.zeros(len(losses)), np.ones(len(losses)), True, exceeded))
            continue
        point = path.points[chosen]
        price = policy.costs(split.costs, len(split.outputs.bank), point.visited)
        exits = policy.decide(split.outputs, point).numpy()
        found.append(Kept(losses[:, chosen].astype(float), price[exits], False, exceeded))
    return found


@dataclass(frozen=True)
class Resplits:
    """Divisions of a pool of images into some that calibrate and `upcoming` others, for one path.

    Attributes:
        worst: Calibration losses, each the largest up to a point, summed `[R, J]`.
        lost: Losses of the others, summed `[R, J]`.
        upcoming: Number of the others.
    """

    worst: np.ndarray
    lost: np.ndarray
    upcoming: int

    @classmethod
    def of(cls, losses: np.ndarray, draws: np.ndarray) -> "Resplits":
        """Sum losses of the pool `[M, J]` bool, of which `draws` `[R, M]`, 0 or 1, calibrate."""
        worst = np.maximum.accumulate(losses, axis=1).astype(np.float32)
        lost = losses.sum(0) - draws @ losses.astype(np.float32)
        return cls(draws @ worst, lost, len(losses) - int(draws[0].sum()))

    def broken(self, target: float, allowed: int) -> float:
        """Return the share of divisions in which the others lose more than `target` at the point that is chosen."""
        points = (np.cumsum(self.worst > allowed, axis=1) == 0).sum(1)
        rows = np.flatnonzero(points)
        lost = self.lost[rows, points[rows] - 1]
        return np.count_nonzero(lost > target * self.upcoming + 1e-6) / len(points)


def _draws(n: int, upcoming: int) -> np.ndarray:
    """Draw which of n + upcoming images calibrate `[RESPLITS, n + upcoming]` float32."""
    first = (np.arange(n + upcoming) < n).astype(np.float32)
    return np.random.default_rng(0).permuted(np.tile(first, (RESPLITS, 1)), axis=1)


def _rows(
    row: dict, seeds: Sequence[int | None], kept: Sequence[Kept], points: Sequence[int], sources: SharedSources
) -> list[dict]:
    """Return a row per seed, and one for the mean if there are seeds."""
    seeded = seeds[0] is not None
    values = np.stack([np.stack((own.rates, own.loss), -1) for own in kept])
    estimate = means(values, seeded)
    groups = {str(seed): [s] for s, seed in enumerate(seeds)} if seeded else {None: [0]}
    groups |= {"mean": list(range(len(seeds)))} if seeded else {}
    rows = []
    for seed, some in groups.items():
        found = intervals(Estimate(estimate.values[some], estimate.influence[some], seeded), sources)
        share = float(np.mean([kept[s].exceeded for s in some]))
        columns = {"seed": seed, "points": float(np.mean([points[s] for s in some]))}
        for j, what in enumerate(("rate", "loss")):
            low, high = (end[j] for end in found.modules)
            columns |= {what: found.value[j], f"{what}_ci_low": max(0.0, low), f"{what}_ci_high": high}
        columns |= {"full_share": float(np.mean([kept[s].full for s in some])), "exceeded": share}
        rows.append(row | columns | {"exceeded_se": float(np.sqrt(share * (1 - share) / RESPLITS))})
    return rows
