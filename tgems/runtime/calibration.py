"""Fit the thresholds of a T-GEM to one's own images, without labels: for a mean rate, or for a promised quality.

docs/using-a-t-gem.md#your-own-images says how to use it, and docs/method.md#promises-of-quality why promises hold.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tgems.backbones.load import Backbone
from tgems.errors import UserError
from tgems.policies.chosen_exits import require_choice
from tgems.policies.interface import ThresholdPolicy
from tgems.provenance import digest_json
from tgems.runtime.early_exit import Calibration, EarlyExit
from tgems.runtime.exits_by_time import ChosenExits, measured_exits
from tgems.runtime.image_files import DecodedBatch, ImageFile, decoded_batches, find_images
from tgems.runtime.own_fit import Forecast, OwnFit, allowed_or_refused
from tgems.runtime.own_outputs import own_outputs, text_embeddings

LARGEST_SAMPLE = 10_000
FEWEST = 20
MOST_UPCOMING = 1_000_000
"""Most of the next images that forecast and promise can be about; the bounds hardly change beyond."""
LONGEST_NAME = 100


@dataclass(frozen=True)
class OwnCalibration:
    """The thresholds that `calibrate` fitted, and what to expect of them.

    Attributes:
        calibration: The thresholds, and under `made` how they were fitted.
        forecast: Mean rate of the next images.
        left_out: Name and reason of each image that could not be read.
        chosen: Exits that were chosen by time, and what to expect of them; None if no exits were chosen.
    """

    calibration: Calibration
    forecast: Forecast
    left_out: list[tuple[str, str]]
    chosen: ChosenExits | None = None


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
    by_time: bool = False,
    advance: Callable[[int], None] = lambda n: None,
) -> OwnCalibration:
    """Fit thresholds to unlabelled images.

    By `rate`, thresholds are fitted to all images exactly as in the evaluation; the forecast comes from a fivefold
    cross-fit, in which no image is judged by thresholds that it fitted. By `keep`, operating points are fitted on a
    third of the images, without texts on half of them, and certified on the others, on which the forecast rests too.

    Args:
        backbone: The T-GEM's backbone, on its device.
        early: The T-GEM.
        images: Preprocessed images `[n, 3, h, w]`; or files, folders, globs and tars. Of more than `LARGEST_SAMPLE`
            images, a random sample is used.
        rate: Mean share of the encoder's computation to spend, in (0, 1].
        keep: Share that the next images keep, in (0, 1), of what the full encoder would say: the best text, or without
            texts the ten nearest neighbours among the images on which points were fitted (mean overlap).
        texts: Texts, or their embeddings `[M, D]`. A policy that looks at texts needs them.
        upcoming: Number of the next images that forecast and promise are about.
        confidence: Probability with which a promise is kept.
        seed: Seed of all random divisions.
        batch_size: Number of images per forward pass; with `by_time`, also the number of images per call of
            `encode_image` for which exits are chosen.
        workers: Processes that decode.
        skip_bad: Whether to leave out images that cannot be read.
        by_time: Whether to ask only exits that are worth their time on this machine (`tgems.runtime.exits_by_time`);
            only with `rate`.
        advance: Called with the number of further images that are done.

    Raises:
        UserError: An argument cannot be used, an image cannot be read, there are too few images, the rate cannot be
            reached, or no saving can be promised.
    """
    policy = early.policy
    if not isinstance(policy, ThresholdPolicy):
        raise UserError(f"policy {policy.name!r} has no thresholds to fit; export another, such as 'tgem'")
    _check(early, rate, keep, texts, upcoming, confidence)
    if by_time:
        if rate is None:
            raise UserError("exits are chosen by time for a rate; give --rate, or leave out --by-time")
        require_choice(policy, early.costs)
    chosen = images if isinstance(images, Tensor) else _found(images)
    rows = np.random.default_rng(seed).permutation(len(chosen))[:LARGEST_SAMPLE]
    if keep is not None:  # before anything is encoded
        allowed_or_refused(len(rows), 1 - keep, upcoming, 1 - confidence, texts is not None)
    left_out: list[tuple[str, str]] = []
    if isinstance(chosen, Tensor):
        names, batches = None, _cut(chosen[torch.from_numpy(rows)], batch_size, advance)
    else:
        files = [chosen[row] for row in rows]
        names = [file.name for file in files]
        decoded = decoded_batches(files, backbone.preprocess, batch_size, workers, skip_bad)
        batches = _readable(decoded, left_out, advance)
    bank = None if texts is None else text_embeddings(backbone, texts)
    target = rate or early.rate_target or 1.0
    outputs = own_outputs(backbone, early, policy, batches, bank, [target, 0.0])
    if len(outputs) < FEWEST:
        raise UserError(f"too few images to fit thresholds to: {len(outputs)}; give {FEWEST} or more")
    chosen_exits = None
    if by_time:
        device, scale = backbone.model.logit_scale.device, backbone.logit_scale
        looked_at = bank.to(device) if bank is not None and policy.needs_bank else None
        chosen_exits = measured_exits(backbone.tower, early, looked_at, scale, target, batch_size, device.type)
    among = None if chosen_exits is None else chosen_exits.asked
    fit = OwnFit(policy, outputs, bank is not None, upcoming, seed, among)
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
    if chosen_exits is not None:
        made["by_time"] = {"batch_size": batch_size, "asked": list(chosen_exits.asked), "speedup": chosen_exits.speedup}
    calibration = Calibration(
        point.thresholds, point.visited, forecast.rate, spread=policy.spread(outputs, point), made=made
    )
    return OwnCalibration(calibration, forecast, left_out, chosen_exits)


def check_name(name: str) -> None:
    """Refuse a name for thresholds that could not be read or typed.

    Raises:
        UserError: It is empty, too long, has white space around it, begins with a dash, or is not printable.
    """
    if not (0 < len(name) <= LONGEST_NAME and name == name.strip() and name.isprintable() and name[0] != "-"):
        raise UserError(
            f"name {name!r:.120}: cannot be the name of thresholds; use 1 to {LONGEST_NAME} characters without white "
            "space around them, such as my-photos (--name)"
        )


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
    if not 1 <= upcoming <= MOST_UPCOMING:
        raise UserError(f"upcoming {upcoming}: a forecast (--next) is about 1 to {MOST_UPCOMING:,} images")
    if texts is None and early.policy.needs_bank:
        raise UserError(f"policy {early.policy.name!r} looks at the texts, so that it needs them; give texts (--texts)")
    if texts is not None and not len(texts):
        raise UserError("there are no texts; give one at least")
    if texts is not None and not isinstance(texts, Tensor) and len(set(texts)) < len(texts):
        text, count = Counter(texts).most_common(1)[0]
        raise UserError(
            f"text {text!r:.60} is listed {count:,} times, so that none can be told to be best; list it once"
        )
    if texts is not None and keep is not None and len(texts) == 1:
        raise UserError("there is 1 text (--texts), which is the best of all images whatever happens; give 2 at least")


def _found(images: Sequence[ImageFile | str | Path]) -> list[ImageFile]:
    """Find the images of files, folders, globs and tars."""
    words = [str(image) for image in images if not isinstance(image, ImageFile)]
    files = [image for image in images if isinstance(image, ImageFile)]
    return [*files, *find_images(words)] if words else files


def _readable(
    batches: Iterable[DecodedBatch], left_out: list[tuple[str, str]], advance: Callable[[int], None]
) -> Iterator[Tensor]:
    """Yield the images that can be read `[b, 3, h, w]`, and add the others to `left_out`."""
    for batch in batches:
        left_out += batch.bad
        if batch.images:
            yield torch.stack(batch.images)
        advance(len(batch))


def _cut(images: Tensor, size: int, advance: Callable[[int], None]) -> Iterator[Tensor]:
    for batch in images.split(size):
        yield batch
        advance(len(batch))
