"""Describe a saved T-GEM in rows of text. Imports neither torch nor open_clip, so that it starts quickly."""

from collections.abc import Sequence
from pathlib import Path

from tgems.runtime.fetching import fetch
from tgems.runtime.saved_config import TENSORS, read_config

Rows = list[tuple[str, ...]]
OWN_HEADER = ("fitted to own images", "date", "images", "aim", "expected mean rate")
NEIGHBOURS = 10


def describe(folder_or_hub_id: str | Path) -> tuple[Rows, Rows, Rows, Rows, Rows]:
    """Describe a T-GEM in tables: metadata, costs of exits, thresholds, thresholds by `tgems calibrate`, test results.

    Raises:
        UserError: See `fetch` and `read_config`.
    """
    folder = fetch(folder_or_hub_id)
    config = read_config(folder)
    target, full = config.rate_target, config.costs.encoder[-1]
    about = [
        ("backbone", backbone_reference(config.backbone.model_dump())),
        ("weights", config.weights[:12]),
        ("policy", config.policy if config.policy_class is None else f"{config.policy} ({config.policy_class})"),
        ("rate target", "none" if target is None else f"{target:g}"),
        ("full encoder", f"{full / 1e9:.4g} GMACs an image"),
        ("size", f"{(folder / TENSORS).stat().st_size / 1e6:.2f} MB"),
        *((key.replace("_", " "), str(value)) for key, value in (config.about.model_extra or {}).items()),
    ]
    spent = [
        (str(block), f"{rate:.3f}", f"{rate * full / 1e9:.4g}")
        for block, rate in zip(config.costs.blocks, config.rates, strict=True)
    ]
    calibrations = {name: point.model_dump() for name, point in config.calibrations.items()}
    results = [row.model_dump() for row in config.about.results]
    return about, spent, threshold_rows(calibrations), own_rows(calibrations), result_rows(results)


def backbone_reference(entry: dict) -> str:
    """Return the name of a backbone: its architecture and weights, and how many tokens it merges if it does."""
    merged = entry.get("token_merging")
    return " ".join(filter(None, (entry.get("model"), entry["pretrained"], merged and f"token_merging {merged}")))


def _range(thresholds: Sequence[float] | None) -> str:
    """Write a threshold, or the range of those of several exits."""
    ends = [f"{end:.4g}" for end in (min(thresholds), max(thresholds))] if thresholds else ["none"]
    return " to ".join(dict.fromkeys(ends))


def threshold_rows(calibrations: dict[str, dict]) -> Rows:
    """Return rows of data set, threshold, and mean rate on its validation images, if it was fitted on such images."""
    return [
        (name, _range(c["thresholds"]), "" if c.get("made") else f"{c['rate_validation']:.3f}")
        for name, c in calibrations.items()
    ]


def own_rows(calibrations: dict[str, dict]) -> Rows:
    """Return rows of name, date, number of images, aim, and expected rate of thresholds by `tgems calibrate`."""
    rows = []
    for name, made in ((name, c.get("made")) for name, c in calibrations.items()):
        if made is None:
            continue
        if made["keep"] is None:
            aim = f"rate {made['rate']:g}"
        else:
            what = f"{NEIGHBOURS} nearest images" if made["texts"] is None else f"best of {made['texts']:,} texts"
            aim = f"keep {made['keep']:g} of the {what}, with confidence {made['confidence']:g}"
        expected = "{rate:.3f} ({low:.3f} to {high:.3f})".format(**made["expected"])
        rows.append((name, made["date"], f"{made['images']:,}", aim, f"{expected} on {made['upcoming']:,} images"))
    return rows


def result_rows(results: list[dict]) -> Rows:
    """Return rows of data set, calibration, metric, value, the full encoder's value, and rate."""
    return [
        (r["dataset"], r["calibration"], r["metric"], *(f"{r[k]:.3f}" for k in ("value", "full", "rate")))
        for r in results
    ]
