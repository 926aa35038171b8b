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
from tgems.reporting.style import WIDTH, look

SIDE = 5


def gallery(frames: dict[str, pd.DataFrame]) -> Figure:
    """Show, per data set, the first images to leave the deepest backbone on the left, and the last on the right."""
    images = frames["gallery"]
    backbone = by_length(images["backbone"])[-1]
    images = images[images["backbone"] == backbone]
    datasets = sorted(images["dataset"].unique())
    figure, axes = plt.subplots(
        len(datasets), 2 * SIDE + 1, figsize=(WIDTH, 1.15 * len(datasets) + 0.45), squeeze=False,
        gridspec_kw={"width_ratios": [*[1] * SIDE, 0.25, *[1] * SIDE]},
    )  # fmt: skip
    for line, dataset in zip(axes, datasets, strict=True):
        own = images[images["dataset"] == dataset].sort_values(["exit_block", "key"])
        half = min(SIDE, len(own) // 2)
        first, last = own.head(half), own.tail(half)
        for axis in line:
            axis.axis("off")
        for axis, row in zip(line[:SIDE], first.itertuples(), strict=False):
            _show(axis, row)
        for axis, row in zip(line[SIDE + 1 :], last.itertuples(), strict=False):
            _show(axis, row)
        line[0].text(-0.25, 0.5, dataset, transform=line[0].transAxes, ha="right", va="center", rotation=90, fontsize=8)
    about = images.iloc[0]
    title = f"{backbone}, {look(about['policy']).label}, rate target {about['rate_target']:g}"
    figure.suptitle(title, y=1.0)
    for x, side in ((0.28, "left first"), (0.76, "left last")):
        figure.text(x, 1 - 0.3 / figure.get_figheight(), side, ha="center", fontsize=8, weight="bold")
    figure.subplots_adjust(
        left=0.05, right=0.99, bottom=0.35 / figure.get_figheight(), top=1 - 0.6 / figure.get_figheight(),
        hspace=0.9, wspace=0.25,
    )  # fmt: skip
    return figure


def _show(axis: Axes, row: Any) -> None:
    axis.imshow(plt.imread(io.BytesIO(row.image), format="png"))
    difficulty = "" if pd.isna(row.difficulty) else f"\ndifficulty {row.difficulty:.2f}"
    axis.set_title(f"block {row.exit_block}{difficulty}", fontsize=5, pad=2, linespacing=1.0)
    text = textwrap.fill(printable(" ".join(row.text[:200].split())), 17, max_lines=4)
    axis.text(0.5, -0.06, text, transform=axis.transAxes, ha="center", va="top", fontsize=5, linespacing=1.0)
