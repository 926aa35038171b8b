"""Read and describe the config.json of a saved T-GEM. Imports neither torch nor open_clip, so that it is quick."""

from pathlib import Path

from tgems.errors import UserError
from tgems.provenance import read_json

FORMAT, FORMAT_VERSION = "tgems", 1
FILES = ("config.json", "model.safetensors", "README.md")
FIELDS = {
    *("format", "format_version", "backbone", "weights", "preprocess", "policy", "rate_target", "costs", "rates"),
    *("modules", "calibrations", "about", "model_digest", "recorded"),
}
Rows = list[tuple[str, ...]]


def read_config(folder: Path) -> dict:
    """Read and check config.json.

    Raises:
        UserError: It is missing, of another format, of a newer version, or has unknown or missing fields.
    """
    folder = Path(folder)
    path = folder / "config.json"
    for needed in (path, folder / "model.safetensors"):
        if not needed.is_file():
            raise UserError(f"{folder}: not a saved T-GEM, {needed.name} is missing; make one with `tgems export`")
    config = read_json(path)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else config
        raise UserError(f"{path}: format is {found!r}, not {FORMAT!r}: no saved T-GEM; make one with `tgems export`")
    if config.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path}: format version {config.get('format_version')!r}, this tgems reads {FORMAT_VERSION}; "
            "install a newer tgems, or export the T-GEM again"
        )
    if unknown := sorted(set(config) - FIELDS):
        raise UserError(f"{path}: unknown field {unknown[0]!r}; known: {', '.join(sorted(FIELDS))}")
    if missing := sorted(FIELDS - set(config)):
        raise UserError(f"{path}: field {missing[0]!r} is missing; export or download the folder again")
    return config


def describe(folder: Path) -> tuple[Rows, Rows, Rows, Rows]:
    """What it is, what exits cost, its thresholds, and what it reached on test images.

    Raises:
        UserError: See `read_config`.
    """
    config = read_config(folder)
    target, full = config["rate_target"], config["costs"]["encoder"][-1]
    about = [
        ("backbone", reference(config["backbone"])),
        ("weights", config["weights"][:12]),
        ("policy", config["policy"]),
        ("rate target", "none" if target is None else f"{target:g}"),
        ("full encoder", f"{full / 1e9:.4g} GMACs an image"),
        ("size", f"{(Path(folder) / 'model.safetensors').stat().st_size / 1e6:.2f} MB"),
        *((key.replace("_", " "), str(value)) for key, value in config["about"].items() if key != "results"),
    ]
    blocks, rates = config["costs"]["blocks"], config["rates"]
    spent = [(str(b), f"{r:.3f}", f"{r * full / 1e9:.4g}") for b, r in zip(blocks, rates, strict=True)]
    return about, spent, threshold_rows(config["calibrations"]), result_rows(config["about"].get("results", []))


def reference(entry: dict) -> str:
    """A backbone in words."""
    return " ".join(filter(None, (entry.get("model"), entry["pretrained"])))


def threshold_rows(calibrations: dict[str, dict]) -> Rows:
    """Data set, threshold, mean rate on its validation images."""
    return [
        (name, "none" if c["threshold"] is None else f"{c['threshold']:.4g}", f"{c['rate_validation']:.3f}")
        for name, c in calibrations.items()
    ]


def result_rows(results: list[dict]) -> Rows:
    """Data set, whose thresholds, metric, value, the full encoder's, rate."""
    return [
        (r["dataset"], r["calibration"], r["metric"], *(f"{r[k]:.3f}" for k in ("value", "full", "rate")))
        for r in results
    ]
