"""Published zero-shot results of released models. Dry runs import this module, so it imports nothing heavy."""

import csv
from pathlib import Path

PUBLISHED = Path(__file__).with_name("published.csv")


def identity(entry: dict) -> tuple[str | None, str]:
    """Return model and weights of a backbone's entry; a `-quickgelu` architecture is the same model."""
    model = entry.get("model")
    return (model.removesuffix("-quickgelu") if model else None), entry["pretrained"]


def unaltered(backbones: dict[str, dict]) -> dict[str, dict]:
    """Return the backbones that published values apply to: those that merge no tokens."""
    return {name: entry for name, entry in backbones.items() if not entry.get("token_merging")}


def has_published(backbones: dict[str, dict], datasets: list[str]) -> bool:
    """Return whether any combination of these backbones and data sets has a published value."""
    with open(PUBLISHED, newline="") as file:
        known = {(row["model"], row["pretrained"], row["dataset"]) for row in csv.DictReader(file)}
    return any((*identity(entry), dataset) in known for entry in unaltered(backbones).values() for dataset in datasets)
