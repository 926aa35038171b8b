"""The style that all figures share: colour-blind safe colours per policy, fonts, PDF and PNG output."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import pandas as pd  # noqa: E402
import seaborn as sns  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from tgems.config.run import ALL_POLICIES  # noqa: E402
from tgems.outputs import whole_file  # noqa: E402
from tgems.policies.declarations import declared  # noqa: E402

WIDTH = 7.2  # inches: two columns of a paper


class Look(NamedTuple):
    """Appearance of a policy in figures; policies that are `light` are drawn behind the others."""

    label: str
    color: str
    marker: str
    line: str = "-"
    light: bool = False


_policies = list(ALL_POLICIES)
METRIC_NAMES = {
    "acc1": "accuracy",
    "text_retrieval_recall@1": "R@1, image to text",
    "image_retrieval_recall@1": "R@1, text to image",
}


@cache
def _looks(words: tuple[str, ...]) -> dict[str, Look]:
    """Return the looks of policies by name, contenders first and light ones last."""
    found = []
    for word in words:
        own = {} if word == "shuffled" else declared(word)
        if word == "shuffled":
            found.append((True, True, word, Look("T-GEM's exits, shuffled", "#7FB2D5", "", ":", True)))
            continue
        light = not own["adaptive"] or own["frozen_head"]
        color = own["color"] or sns.color_palette("colorblind").as_hex()[sum(own["name"].encode()) % 10]
        label = own["label"] or own["name"]
        label = f" {label}" if label.startswith("_") else label  # matplotlib leaves labels with `_` out of legends
        drawn = Look(label, color, own["marker"], own["line"], light)
        found.append((light, not own["contender"], own["name"], drawn))
    return {name: drawn for *_, name, drawn in sorted(found, key=lambda one: one[:2])}


def look(policy: str) -> Look:
    """Return how to draw a policy, as its class declares it."""
    return _looks(tuple(_policies))[policy]


def in_order(policies: pd.Series) -> list[str]:
    """Return the policies that occur, but for the full encoder, in the order in which they are drawn."""
    found = set(policies) - {"full"}
    return [policy for policy in _looks(tuple(_policies)) if policy in found]


def use_style(policies: Sequence[str] = ALL_POLICIES) -> None:
    """Set seaborn's theme, matplotlib's fonts, and the policies that figures show.

    Args:
        policies: Names of policies, or `FILE.py:CLASS` for those of your own.
    """
    _policies[:] = policies
    sns.set_theme(context="paper", style="whitegrid", font="DejaVu Sans")
    sizes = {"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7}
    plt.rcParams |= sizes | {"legend.fontsize": 7, "figure.titlesize": 9, "grid.linewidth": 0.5}
    plt.rcParams |= {"pdf.fonttype": 42, "legend.frameon": False, "figure.dpi": 100, "savefig.dpi": 200}
    plt.rcParams["text.parse_math"] = False  # a dollar sign in a caption or a name is a dollar sign


def save(figure: Figure, pdf: str, png: str) -> None:
    """Write a figure as PDF and PNG, completely or not at all, and without dates, so that bytes are reproducible."""
    for path, metadata in ((pdf, {"CreationDate": None}), (png, {"Software": None})):
        with whole_file(Path(path)) as partial:
            figure.savefig(partial, format=Path(path).suffix[1:], bbox_inches="tight", metadata=metadata)
    plt.close(figure)
