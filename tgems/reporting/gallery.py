"""Plot the gallery: images that left first and images that stayed longest, with their texts and difficulty."""

import io
import textwrap
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tgems.errors import printable
from tgems.reporting.panels import by_length
from tgems.reporting.style import WIDTH, Looks, short

SIDE = 3
LETTERS, LINES = 17, 4
"""Size of a caption that fits below an image."""
LINE = 0.13
"""Inches."""


def gallery(frames: dict[str, pd.DataFrame], looks: Looks) -> Figure:
    """Show, per data set, the first images to leave the deepest backbone on the left, and the last on the right.

    Captions name the block where an image left, and its difficulty where the images of the data set differ in it.
    """
    images = frames["gallery"]
    backbone = by_length(images["backbone"])[-1]
    images = images[images["backbone"] == backbone].sort_values(["exit_block", "key"])
    images = images.assign(caption=images["text"].map(_caption))
    rows = {}
    for dataset in sorted(images["dataset"].unique()):
        own = images[images["dataset"] == dataset]
        if own["difficulty"].nunique() < 2:
            own = own.assign(difficulty=float("nan"))
        half = min(SIDE, len(own) // 2)
        rows[dataset] = own.head(half), own.tail(half)
    lines = [3 + max(s["caption"].str.count("\n").max() for s in sides) for sides in rows.values()]
    figure, axes = plt.subplots(
        len(rows), 2 * SIDE + 1, figsize=(WIDTH, sum(0.95 + LINE * n for n in lines) + 0.4), squeeze=False,
        gridspec_kw={"width_ratios": [*[1] * SIDE, 0.15, *[1] * SIDE]}, layout="constrained",
    )  # fmt: skip
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    for line, (dataset, (first, last)) in zip(axes, rows.items(), strict=True):
        for axis, row in zip(line[:SIDE], first.itertuples(), strict=False):
            _show(axis, row)
        for axis, row in zip(line[SIDE + 1 :], last.itertuples(), strict=False):
            _show(axis, row)
        line[0].set_ylabel(textwrap.fill(dataset, LETTERS, max_lines=2), weight="bold")
    about = images.iloc[0]
    label = looks[about["policy"]].label.strip()
    figure.suptitle(f"{backbone}, {label}, rate target {short(about['rate_target'])}\n")
    for x, side in ((0.28, "left first"), (0.77, "left last")):
        figure.text(x, 1 - 0.2 / figure.get_figheight(), side, ha="center", va="top", weight="bold")
    return figure


def _caption(text: str) -> str:
    return textwrap.fill(printable(" ".join(text[:200].split())), LETTERS, max_lines=LINES)


def _show(axis: Axes, row: Any) -> None:
    axis.imshow(plt.imread(io.BytesIO(row.image), format="png"))
    difficulty = "" if pd.isna(row.difficulty) else f"\ndifficulty {row.difficulty:.2f}"
    axis.set_title(f"block {row.exit_block}{difficulty}", pad=2, linespacing=1.0)
    axis.set_xlabel(row.caption, linespacing=1.0)
