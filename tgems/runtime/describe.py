"""Describe a saved T-GEM from its config.json alone."""

from pathlib import Path

from tgems.exits.registry import find_policies
from tgems.profiling.costs import costs_from
from tgems.runtime.folder import read_config

Rows = list[tuple[str, ...]]


def describe(folder: Path) -> tuple[Rows, Rows, Rows]:
    """What it is, what exits cost, and its thresholds.

    Raises:
        UserError: See `read_config`.
    """
    config = read_config(folder)
    costs = costs_from(config)
    entry, target = config["backbone"], config["rate_target"]
    about = [
        ("backbone", " ".join(filter(None, (entry.get("model"), entry["pretrained"])))),
        ("weights", config["weights"][:12]),
        ("policy", config["policy"]),
        ("rate target", "none" if target is None else f"{target:g}"),
        ("full encoder", f"{costs.full / 1e9:.4g} GMACs an image"),
        ("size", f"{(Path(folder) / 'model.safetensors').stat().st_size / 1e6:.2f} MB"),
        *((key, str(value)) for key, value in config["about"].items() if key != "results"),
    ]
    visited = next(iter(config["calibrations"].values()))["visited"]
    rates = find_policies([config["policy"]])[config["policy"]].costs(costs, 0, visited and tuple(visited))
    spent = [(str(b), f"{r:.3f}", f"{r * costs.full / 1e9:.4g}") for b, r in zip(costs.blocks, rates, strict=True)]
    points = [
        (name, "none" if c["threshold"] is None else f"{c['threshold']:.4g}", f"{c['rate_validation']:.3f}")
        for name, c in config["calibrations"].items()
    ]
    return about, spent, points
