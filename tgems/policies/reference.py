"""Reference policies: the full encoder, fixed exits, chance, and oracles (docs/method.md#policies)."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from tgems.costs.exit_costs import ExitCosts
from tgems.policies.cached_outputs import CachedOutputs
from tgems.policies.interface import OperatingPoint, Policy
from tgems.policies.trained_gates import TGem, TGemBank

Value = TypeVar("Value")


class Full(Policy):
    """No image leaves early: the backbone itself."""

    name = "full"
    label = "full encoder"
    frozen_head = True

    def unusable(self, costs: ExitCosts) -> str:
        """Return an empty reason, since the whole encoder can always be used."""
        return ""

    def fit(self, validation: CachedOutputs, rate_targets: Sequence[float]) -> list[OperatingPoint]:
        """Return the last exit."""
        return [OperatingPoint(exit=len(validation.costs.blocks) - 1)]

    def decide(self, outputs: CachedOutputs, point: OperatingPoint) -> Tensor:
        """Send every image to the same exit."""
        return torch.full((len(outputs),), required(point.exit))


class Fixed(Policy):
    """One exit for all images, by its trained head."""

    name = "fixed"
    label = "fixed exit, trained head"
    color, marker = "#8A8A8A", ""
    runs = True

    def fit(self, validation: CachedOutputs, rate_targets: Sequence[float]) -> list[OperatingPoint]:
        """Return every exit before the last."""
        return [OperatingPoint(exit=k) for k in range(validation.embeddings.shape[1] - 1)]

    def path(self, validation: CachedOutputs, rate_targets: Sequence[float]) -> list[OperatingPoint]:
        """Return every exit before the last, the deepest first."""
        return self.fit(validation, rate_targets)[::-1]

    def decide(self, outputs: CachedOutputs, point: OperatingPoint) -> Tensor:
        """Send every image to the same exit."""
        return torch.full((len(outputs),), required(point.exit))


class FixedRaw(Fixed):
    """One exit for all images, by the frozen pooling and projection."""

    name = "fixed_raw"
    label = "fixed exit, frozen projection"
    color, marker = "#8A8A8A", ""
    line = ":"
    frozen_head = True


class Hull(Policy):
    """Mixes two fixed exits so that the mean rate is the target, the best that ignores the image.

    The two are an edge of the upper concave hull of validation accuracy over rate. Accuracy need not grow with depth:
    the hull ends at the best exit, and a target beyond it leaves computation unused.

    Which images take which exit is drawn by a hash of seed and key. Where texts are ranked for an image, results are
    expectations over the draw. An index of images needs the draw itself and uses another mix: of the hull's edge, the
    two exits around the target and the single exits, the one with the best validation recall.
    """

    name = "hull"
    label = "hull of fixed exits"
    color, marker = "#8A8A8A", ""
    line = "--"
    mixes = True

    def fit(self, validation: CachedOutputs, rate_targets: Sequence[float]) -> list[OperatingPoint]:
        """Fit two exits and the share of the later one, for each target; needs labels."""
        rates = self.costs(validation.costs, len(validation.bank))
        vertices = concave_hull(rates, validation.right.double().mean(0).numpy())
        recall = validation.text_recall
        if recall is not None:
            alone = [recall(torch.full((len(validation),), k)) for k in range(len(rates))]
            text_vertices = concave_hull(rates, np.array(alone))
        points = []
        for target in rate_targets:
            mix = {"image": mix_for_target(rates, vertices, target)}
            if recall is not None:
                edge = mix_for_target(rates, text_vertices, target)
                around = mix_for_target(rates, list(range(len(rates))), target)
                single = max((k for k in range(len(rates)) if rates[k] <= target), key=alone.__getitem__, default=0)
                tried = {m: recall(_drawn(validation, *m)) for m in (edge, around, (single, single, 1.0))}
                mix["text"] = max(tried, key=tried.__getitem__)
            names = ("low", "high", "weight")
            values = {f"{name}_{use}": v for use, m in mix.items() for name, v in zip(names, m, strict=True)}
            points.append(OperatingPoint(target, None, values))
        return points

    def decide(self, outputs: CachedOutputs, point: OperatingPoint) -> Tensor:
        """Draw the exit of every image, for an index."""
        low, high, weight = _mix(point, "text")
        return _drawn(outputs, low, high, weight)

    def shares(self, point: OperatingPoint, n_exits: int) -> np.ndarray:
        """Return the share of images at every exit `[E]`, for ranking texts per image."""
        low, high, weight = _mix(point, "image")
        shares = np.zeros(n_exits)
        shares[low] += 1 - weight
        shares[high] += weight
        return shares


class HullRaw(Hull):
    """The hull of fixed exits by the frozen pooling and projection."""

    name = "hull_raw"
    label = "hull, frozen projection"
    color, marker = "#8A8A8A", ""
    line = "-."
    frozen_head = True


def _mix(point: OperatingPoint, use: str) -> tuple[int, int, float]:
    """Return the two exits of a mix and the share of the later one; `use` is `image` or `text`."""
    low, high, weight = (required(point.parameters)[f"{name}_{use}"] for name in ("low", "high", "weight"))
    return int(low), int(high), weight


def _drawn(outputs: CachedOutputs, low: int, high: int, weight: float) -> Tensor:
    """Draw the later of two exits with probability `weight`, by a hash of seed and key: `[n]` int64."""
    later = torch.tensor([uniform(outputs.seed, key) < weight for key in outputs.keys])
    return torch.where(later, int(high), int(low))


class Random(Policy):
    """Draws each image's exit from the T-GEM's exit histogram on validation, by a hash of seed and sample key."""

    name = "random"
    label = "random exit"
    color, marker = "#BDBDBD", ""
    line = "-."

    def fit(self, validation: CachedOutputs, rate_targets: Sequence[float]) -> list[OperatingPoint]:
        """Fit the exit histogram of `tgem`, or of `tgem_bank` if only that is trained."""
        kinds = {kind for kind, _ in required(validation.modules).gates}
        tgem = TGem() if "image" in kinds else TGemBank()
        exits = validation.embeddings.shape[1]
        points = []
        for fitted in tgem.fit(validation, rate_targets):
            counts = torch.bincount(tgem.decide(validation, fitted), minlength=exits).double()
            shares = {f"share_{k}": share for k, share in enumerate((counts / counts.sum()).tolist())}
            points.append(OperatingPoint(fitted.rate_target, None, shares))
        return points

    def decide(self, outputs: CachedOutputs, point: OperatingPoint) -> Tensor:
        """Draw exits by inverting the cumulative histogram at a number in [0, 1) that follows from the key."""
        exits = outputs.embeddings.shape[1]
        shares = [required(point.parameters)[f"share_{k}"] for k in range(exits)]
        edges = torch.tensor(shares, dtype=torch.float64).cumsum(0)
        drawn = torch.tensor([uniform(outputs.seed, key) for key in outputs.keys], dtype=torch.float64)
        return torch.searchsorted(edges[:-1].contiguous(), drawn, right=True)


class Oracle(Policy):
    """The earliest exit whose best text is right, else the cheapest. A bound; not for text-to-image."""

    name = "oracle"
    label = "oracle: first right exit"
    color, marker = "#8A8A8A", "*"
    line = ""
    oracle = True

    def fit(self, validation: CachedOutputs, rate_targets: Sequence[float]) -> list[OperatingPoint]:
        """Return one point without a target: there is nothing to fit."""
        return [OperatingPoint()]

    def decide(self, outputs: CachedOutputs, point: OperatingPoint) -> Tensor:
        """Return the first exit that is right, or index 0 if none is."""
        return outputs.right.int().argmax(1)


class OracleAgree(Oracle):
    """The earliest exit from which on every exit agrees with the last; needs no labels. A bound."""

    name = "oracle_agree"
    label = "oracle: first to agree for good"
    color, marker = "#C9C9C9", "*"
    line = ""

    def decide(self, outputs: CachedOutputs, point: OperatingPoint) -> Tensor:
        """Return the first of the last exits that all agree with the last one."""
        winner = outputs.statistics.winner
        differs = winner != winner[:, -1:]
        after = torch.arange(1, winner.shape[1] + 1)
        return (differs * after).amax(1)


def required(value: Value | None) -> Value:
    """Return a value that must not be None, such as a parameter of an operating point."""
    if value is None:
        raise ValueError("an operating point or a split lacks what its policy needs")
    return value


def uniform(seed: int | None, key: str) -> float:
    """Return a number in [0, 1) from seed and key, the same on every machine."""
    digest = hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def concave_hull(rates: np.ndarray, values: np.ndarray) -> list[int]:
    """Return the upper concave hull of points sorted by rate, ascending, up to the first of the highest points."""
    hull: list[int] = []
    for i in range(int(np.argmax(values)) + 1):
        while len(hull) >= 2:
            a, b = hull[-2], hull[-1]
            turn = (rates[b] - rates[a]) * (values[i] - values[a]) - (values[b] - values[a]) * (rates[i] - rates[a])
            if turn < 0:
                break
            hull.pop()
        hull.append(i)
    return hull


def mix_for_target(rates: np.ndarray, hull: list[int], target: float) -> tuple[int, int, float]:
    """Return the hull's edge that holds the target and the share of its upper end; outside, the nearest vertex."""
    inside = float(np.clip(target, rates[hull[0]], rates[hull[-1]]))
    for low, high in zip(hull[:-1], hull[1:], strict=True):
        if inside <= rates[high]:
            return low, high, float((inside - rates[low]) / (rates[high] - rates[low]))
    return hull[-1], hull[-1], 1.0
