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


def gallery(frames: dict[str, pd.DataFrame], looks: Looks) -> Figure:
    """Show, per data set, the first images to leave the deepest backbone on the left, and the last on the right.

    Captions name the block where an image left, and its difficulty where the images of the data set differ in it.
    """
    images = frames["gallery"]
    backbone = by_length(images["backbone"])[-1]
    images = images[images["backbone"] == backbone]
    datasets = sorted(images["dataset"].unique())
    figure, axes = plt.subplots(
        len(datasets), 2 * SIDE + 1, figsize=(WIDTH, 1.45 * len(datasets) + 0.5), squeeze=False,
        gridspec_kw={"width_ratios": [*[1] * SIDE, 0.15, *[1] * SIDE]},
    )  # fmt: skip
    for line, dataset in zip(axes, datasets, strict=True):
        own = images[images["dataset"] == dataset].sort_values(["exit_block", "key"])
        if own["difficulty"].nunique() < 2:
            own = own.assign(difficulty=float("nan"))
        half = min(SIDE, len(own) // 2)
        for axis in line:
            axis.axis("off")
        for axis, row in zip(line[:SIDE], own.head(half).itertuples(), strict=False):
            _show(axis, row)
        for axis, row in zip(line[SIDE + 1 :], own.tail(half).itertuples(), strict=False):
            _show(axis, row)
        name = textwrap.fill(dataset, 20, max_lines=2)
        line[0].text(-0.25, 0.5, name, transform=line[0].transAxes, ha="right", va="center", rotation=90, weight="bold")
    about, height = images.iloc[0], figure.get_figheight()
    figure.suptitle(
        f"{backbone}, {looks[about['policy']].label.strip()}, rate target {short(about['rate_target'])}", y=1.0
    )
    for x, side in ((0.28, "left first"), (0.76, "left last")):
        figure.text(x, 1 - 0.28 / height, side, ha="center", weight="bold")
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.45 / height, top=1 - 0.5 / height, hspace=0.75, wspace=0.1)
    return figure


def _show(axis: Axes, row: Any) -> None:
    axis.imshow(plt.imread(io.BytesIO(row.image), format="png"))
    difficulty = "" if pd.isna(row.difficulty) else f", difficulty {short(round(row.difficulty, 2))}"
    axis.set_title(f"block {row.exit_block}{difficulty}", pad=2)
    text = textwrap.fill(printable(" ".join(row.text[:200].split())), LETTERS, max_lines=LINES)
    axis.text(0.5, -0.04, text, transform=axis.transAxes, ha="center", va="top", linespacing=1.0)
