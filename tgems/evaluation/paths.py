"""Operating points from expensive to cheap, fitted on half of the validation images, and losses on the other half.

A loss is 1 where the best text at the exit that an image takes is not the one that the full encoder gives it, and 0
elsewhere. No labels are read. docs/method.md#promises-of-quality
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tgems.costs.exit_costs import ExitCosts
from tgems.errors import UserError
from tgems.evaluation.split import Split
from tgems.evaluation.thresholds import is_of_exits
from tgems.policies.interface import Policy
from tgems.policies.lost_texts import lost_texts
from tgems.policies.operating_point import OperatingPoint
from tgems.provenance import RUN_AGAIN
from tgems.untrusted import Closed, Size, read_json_as


@dataclass(frozen=True)
class FittedPath:
    """The path of a policy for one seed.

    Attributes:
        policy: Name of the policy.
        seed: Seed of the modules; None for the frozen projection.
        points: Operating points that cost less than the encoder, from expensive to cheap.
        losses: Losses of the images on which nothing was fitted, `[n, J]` bits in base64 (`pack`).
    """

    policy: str
    seed: int | None
    points: tuple[OperatingPoint, ...]
    losses: str


class SavedPaths(Closed):
    """The content of `paths.json`: the number of images with losses, and the paths."""

    n: Size
    paths: tuple[FittedPath, ...]


def fit_paths(split: Split, policies: dict[str, Policy], rate_targets: Sequence[float]) -> list[FittedPath]:
    """Fit the paths of the policies that are evaluated with the modules of this split.

    Modules that were trained for one rate target each, heads included, make no path: a change of heads along it would
    be another encoder.

    Args:
        split: Validation images, and modules of one seed or none.
        policies: Policies by name; those that do not decide image by image are left out.
        rate_targets: Rate targets that gates were trained for.
    """
    if split.policies is not None:
        return []
    fitting, rest = (split.outputs.select(torch.from_numpy(rows)) for rows in halves(len(split.outputs)))
    found = []
    for name, policy in policies.items():
        if policy.runs and split.serves(policy):
            points = policy.path(fitting, rate_targets)
            found.append(FittedPath(name, split.seed, tuple(points), pack(lost_texts(policy, rest, points))))
    return found


def halves(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide n images at random, but always in the same way, into those that points are fitted on and the others."""
    order = np.random.default_rng(0).permutation(n)
    return np.sort(order[: n - n // 2]), np.sort(order[n - n // 2 :])


def pack(losses: np.ndarray) -> str:
    """Write losses `[n, J]` bool as bits in base64."""
    return base64.b64encode(np.packbits(losses).tobytes()).decode()


def unpack(text: str, n: int, points: int) -> np.ndarray:
    """Read losses `[n, J]` bool from `pack`.

    Raises:
        ValueError: They are of other images or points.
    """
    bits = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    if len(bits) != -(-n * points // 8):
        raise ValueError(f"{len(bits)} bytes are not the losses of {n} images at {points} points")
    return np.unpackbits(bits, count=n * points).reshape(n, points).astype(bool)


def as_json(n: int, paths: Sequence[FittedPath]) -> dict[str, Any]:
    """Return the content of `paths.json`; `n` is the number of validation images."""
    return {"n": len(halves(n)[1]), "paths": [asdict(path) for path in paths]}


def read_paths(path: Path, costs: ExitCosts) -> SavedPaths:
    """Read paths.

    Args:
        path: `paths.json`.
        costs: Costs of the exits that the points must fit.

    Raises:
        UserError: The file is missing or damaged, or does not fit the exits.
    """
    saved, before_last = read_json_as(SavedPaths, path, RUN_AGAIN), len(costs.blocks) - 1
    for own in saved.paths:
        if not all(is_of_exits(point, before_last) for point in own.points):
            raise UserError(f"{path}: a point of policy {own.policy!r} is not of {before_last + 1} exits; {RUN_AGAIN}")
        try:
            unpack(own.losses, saved.n, len(own.points))
        except (ValueError, binascii.Error) as error:
            raise UserError(f"{path}: losses of policy {own.policy!r} are damaged ({error}); {RUN_AGAIN}") from None
    return saved
