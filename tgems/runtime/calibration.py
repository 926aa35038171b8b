"""Fit the thresholds of a T-GEM to one's own images, without labels: for a mean rate, or for a promised quality.

docs/using-a-t-gem.md#your-own-images says how to use it, and docs/method.md#promises-of-quality why promises hold.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from tgems.backbones.load import Backbone
from tgems.errors import UserError
from tgems.evaluation.paths import losses_of
from tgems.evaluation.risk_control import allowed_losses, enough_images
from tgems.policies.cached_outputs import CachedOutputs
from tgems.policies.interface import ThresholdPolicy
from tgems.policies.operating_point import OperatingPoint
from tgems.provenance import digest_json
from tgems.runtime.early_exit import Calibration, EarlyExit
from tgems.runtime.image_files import ImageFile, find_images
from tgems.runtime.neighbours import lost_share, nearest
from tgems.runtime.own_outputs import own_outputs, read_batches, text_embeddings
from tgems.runtime.tgem_info import NEIGHBOURS

LARGEST_SAMPLE = 10_000
FEWEST = 20
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
class OwnCalibration:
    """What `calibrate` found.

    Attributes:
        calibration: The thresholds, and under `made` how they came about.
        forecast: Mean rate of the next images.
        left_out: Name and reason of each image that could not be read.
    """

    calibration: Calibration
    forecast: Forecast
    left_out: list[tuple[str, str]]


def calibrate(
    backbone: Backbone,
    early: EarlyExit,
    images: Tensor | Sequence[ImageFile | str | Path],
    *,
    rate: float | None = None,
    keep: float | None = None,
    texts: Sequence[str] | Tensor | None = None,
    upcoming: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    batch_size: int = 64,
    workers: int = 0,
    skip_bad: bool = False,
    advance: Callable[[int], None] = lambda n: None,
) -> OwnCalibration:
    """Fit thresholds to unlabelled images.

    By `rate`, thresholds are fitted to all images exactly as in the evaluation; the forecast comes from a fivefold
    cross-fit, in which no image is judged by thresholds that it fitted. By `keep`, operating points are fitted on one
    half of the images and certified on the other half, on which the forecast rests too.

    Args:
        backbone: The T-GEM's backbone, on its device.
        early: The T-GEM.
        images: Preprocessed images `[n, 3, h, w]`; or files, folders, globs and tars. Of more than `LARGEST_SAMPLE`
            images, a random sample is used.
        rate: Mean share of the encoder's computation to spend, in (0, 1].
        keep: Share that the next images keep, in (0, 1), of what the full encoder would say: the best text, or without
            texts the `NEIGHBOURS` nearest neighbours among the images on which points were fitted (mean overlap).
        texts: Texts, or their embeddings `[M, D]`. A policy that looks at texts needs them.
        upcoming: Number of the next images that forecast and promise are about.
        confidence: Probability with which a promise is kept.
        seed: Seed of all random divisions.
        batch_size: Number of images per forward pass.
        workers: Processes that decode.
        skip_bad: Whether to leave out images that cannot be read.
        advance: Called with the number of further images that are done.

    Raises:
        UserError: An argument cannot be used, an image cannot be read, there are too few images, the rate cannot be
            reached, or no saving can be promised.
    """
    _check(early, rate, keep, texts, upcoming, confidence)
    chosen = images if isinstance(images, Tensor) else _found(images)
    rows = np.random.default_rng(seed).permutation(len(chosen))[:LARGEST_SAMPLE]
    left_out: list[tuple[str, str]] = []
    if isinstance(chosen, Tensor):
        names, batches = None, _cut(chosen[torch.from_numpy(rows)], batch_size, advance)
    else:
        files = [chosen[row] for row in rows]
        names = [file.name for file in files]
        bad = left_out if skip_bad else None
        batches = read_batches(files, backbone.preprocess, batch_size, workers, bad, advance)
    bank = None if texts is None else text_embeddings(backbone, texts)
    target = rate or early.rate_target or 1.0
    outputs = own_outputs(backbone, early, batches, bank, [target, 0.0])
    if len(outputs) < FEWEST:
        raise UserError(
            f"{len(outputs)} images: too few to fit thresholds to, at least {FEWEST} are needed; add images"
        )
    fit = _Fit(early.policy, outputs, bank is not None, upcoming, seed)  # type: ignore[arg-type]
    if keep is None:
        point, forecast = fit.for_rate(target)
    else:
        point, forecast = fit.for_quality(target, 1 - keep, 1 - confidence)
    made = {
        "date": datetime.now(UTC).date().isoformat(),
        "images": len(outputs),
        "names": None if names is None else digest_json(names),
        "texts": None if bank is None else len(bank),
        "rate": rate,
        "keep": keep,
        "confidence": confidence if keep is not None else None,
        "upcoming": upcoming,
        "expected": asdict(forecast),
        "seed": seed,
    }
    calibration = Calibration(point.thresholds, point.visited, forecast.rate, made=made)
    return OwnCalibration(calibration, forecast, left_out)


def _check(
    early: EarlyExit,
    rate: float | None,
    keep: float | None,
    texts: Sequence[str] | Tensor | None,
    upcoming: int,
    confidence: float,
) -> None:
    """Refuse arguments before any image is encoded."""
    if (rate is None) == (keep is None):
        raise UserError("calibration needs one aim: a rate (--rate) or a share to keep (--keep)")
    for name, value in (("rate", rate), ("keep", keep), ("confidence", confidence)):
        if value is not None and not (0 < value < 1 or (name == "rate" and value == 1)):
            raise UserError(f"{name} {value:g} is not between 0 and 1; write a share, such as 0.9")
    if upcoming < 1:
        raise UserError(f"upcoming {upcoming}: a forecast is about 1 image at least")
    if texts is None and early.policy.needs_bank:
        raise UserError(f"policy {early.policy.name!r} looks at the texts, so that it needs them; give texts (--texts)")
    if texts is not None and not len(texts):
        raise UserError("there are no texts; give one at least")


def _found(images: Sequence[ImageFile | str | Path]) -> list[ImageFile]:
    """Find the images that words name."""
    words = [str(image) for image in images if not isinstance(image, ImageFile)]
    files = [image for image in images if isinstance(image, ImageFile)]
    return [*files, *find_images(words)] if words else files


def _cut(images: Tensor, size: int, advance: Callable[[int], None]) -> Iterator[Tensor]:
    for batch in images.split(size):
        yield batch
        advance(len(batch))


@dataclass(frozen=True)
class _Fit:
    """A policy, its outputs on the images, and what forecast and promise are about."""

    policy: ThresholdPolicy
    outputs: CachedOutputs
    has_texts: bool
    upcoming: int
    seed: int

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
        fitting, rest = (self._some(np.sort(rows)) for rows in (order[: len(order) // 2], order[len(order) // 2 :]))
        n = len(rest)
        allowed = allowed_losses(n, tolerance, self.upcoming, level, self.has_texts)
        aim = f"keep {1 - tolerance:g} for {self.upcoming:,} images"
        if allowed < 0:
            needed = enough_images(0.0, tolerance, self.upcoming, level, self.has_texts)
            raise UserError(f"{aim}: cannot be promised from {len(order):,} images; {_enough(needed)}")
        chosen, worst = None, np.zeros(n)
        for point in self.policy.path(self._with_bank(fitting), [target]):
            worst = np.maximum(worst, self._losses(fitting, rest, point))
            if worst.sum() > allowed + 1e-9:
                break
            chosen = point
        if chosen is None:
            share = worst.mean()
            needed = (
                enough_images(share, tolerance, self.upcoming, level, self.has_texts) if share < tolerance else None
            )
            raise UserError(
                f"{aim}: nothing but the full encoder can be certified, since the first step below it loses {share:.3f} "
                f"on {n:,} images; {_enough(needed)}"
            )
        price = self.policy.costs(self.outputs.costs, self._bank_size, chosen.visited)
        return chosen, self._forecast(self._rates(rest, chosen), price)

    @property
    def _bank_size(self) -> int:
        return len(self.outputs.bank) if self.has_texts else 0

    def _some(self, rows: np.ndarray) -> CachedOutputs:
        return self.outputs.select(torch.from_numpy(rows))

    def _with_bank(self, outputs: CachedOutputs) -> CachedOutputs:
        """Without texts, let each exit look for the full encoder's embeddings of the images that are fitted on."""
        if self.has_texts or not self.policy.per_exit:
            return outputs
        return replace(outputs, bank=outputs.embeddings[:LARGEST_OWN_BANK, -1])

    def _fitted(self, outputs: CachedOutputs, targets: list[float]) -> list[OperatingPoint]:
        return self.policy.fit(self._with_bank(outputs), targets)

    def _rates(self, outputs: CachedOutputs, point: OperatingPoint) -> np.ndarray:
        price = self.policy.costs(self.outputs.costs, self._bank_size, point.visited)
        return price[self.policy.decide(outputs, point).numpy()]

    def _losses(self, fitting: CachedOutputs, rest: CachedOutputs, point: OperatingPoint) -> np.ndarray:
        """Return what each image of the rest loses of what the full encoder would say `[n]`."""
        if self.has_texts:
            return losses_of(self.policy, rest, [point])[:, 0].astype(float)
        k = min(NEIGHBOURS, len(fitting))
        before = nearest(rest.embeddings[:, -1], fitting.embeddings[:, -1], k)
        early = [z.embeddings[torch.arange(len(z)), self.policy.decide(z, point)] for z in (rest, fitting)]
        return lost_share(before, nearest(*early, k)).numpy()

    def _forecast(self, rates: np.ndarray, price: np.ndarray) -> Forecast:
        """Predict the mean rate of the next images, whose own draw counts as well as that of the calibration images."""
        n, mean = len(rates), float(rates.mean())
        half = student_quantile(0.5 + LEVEL / 2, n - 1) * rates.std(ddof=1) * np.sqrt(1 / n + 1 / self.upcoming)
        return Forecast(mean, max(mean - half, float(price.min())), min(mean + half, float(price.max())))


def _enough(needed: int | None) -> str:
    """Say how many images would do, of which one half certifies."""
    return "ask for less" if needed is None else f"about {2 * needed:,} images would do, or ask for less"


def student_quantile(probability: float, degrees: int) -> float:
    """Return a quantile of Student's t to second order in 1 / degrees (Cornish and Fisher, 1938); for 10 or more."""
    z = NormalDist().inv_cdf(probability)
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
