"""Plot where test images leave, as one histogram per rate target."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tgems.reporting.calibration import shown_first
from tgems.reporting.panels import block_ticks, by_length, figure_width, title
from tgems.reporting.style import Looks, short

HEIGHT = 0.9
"""Height of the tallest bar of a panel, in distances between histograms."""


def exit_histogram(frames: dict[str, pd.DataFrame], looks: Looks) -> Figure:
    """Plot the share of test images that leave at each block, as means over seeds, per data set and rate target."""
    shares = shown_first(frames["exits"])
    shares = shares[shares["policy"].isin(looks.contenders(shares["policy"]))]
    keys = ["backbone", "dataset", "policy", "rate_target", "exit_block"]
    shares = shares.groupby(keys)["share"].mean().reset_index()
    rows = [(b, p) for b in by_length(shares["backbone"]) for p in looks.contenders(shares["policy"])]
    datasets = sorted(shares["dataset"].unique())
    height = max(0.9, 0.2 * shares["rate_target"].nunique() + 0.45)
    figure, axes = plt.subplots(
        len(rows), len(datasets), figsize=(figure_width(len(datasets)), height * len(rows) + 0.4),
        squeeze=False, layout="constrained", sharex="row",
    )  # fmt: skip
    for line, (backbone, policy) in zip(axes, rows, strict=True):
        for axis, dataset in zip(line, datasets, strict=True):
            part = shares.query("backbone == @backbone and policy == @policy and dataset == @dataset")
            _panel(axis, part.pivot(index="rate_target", columns="exit_block", values="share"), looks[policy].color)
            if axis in axes[0]:
                title(axis, dataset)
        for axis in line[1:]:
            axis.set_yticklabels([])
        line[0].set_ylabel(f"{backbone}\n{looks[policy].label.strip()}".replace(", ", ",\n"))
    figure.supxlabel("block after which the image leaves")
    figure.supylabel("rate target")
    return figure


def _panel(axis: Axes, table: pd.DataFrame, color: str) -> None:
    """Draw one histogram per row of shares, the smallest rate target at the bottom, and the mean exit as a tick."""
    blocks, places = table.columns.to_numpy(), range(len(table))
    scale = HEIGHT / max(table.to_numpy().max(), 1e-9)
    for place, (_, row) in zip(places, table.iterrows(), strict=True):
        axis.axhline(place, color="#BBBBBB", linewidth=0.5)
        axis.bar(blocks, row * scale, bottom=place, width=0.85, color=color, linewidth=0)
        mean = (row * blocks).sum() / max(row.sum(), 1e-9)
        axis.plot([mean, mean], [place, place + HEIGHT], color="black", linewidth=0.9)
    axis.set_yticks(places, [short(target) for target in table.index])
    axis.set_ylim(-0.05, len(table))
    axis.set_xticks(block_ticks(blocks[-1]))
    axis.grid(False)
