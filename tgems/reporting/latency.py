"""Write the table and the figure of measured speed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tgems.reporting.panels import leftmost, legend_below, panel_grid, title
from tgems.reporting.style import DASHES, GREY, MARKERS, OKABE_ITO, save, short, use_style
from tgems.reporting.tables import write_table

ASKED = {"early exit": "all exits", "early exit, exits by time": "by time"}
"""Title of the panels of each encoder in the table `latency`, which says at which exits the policy is evaluated."""


def report_latency(parts: Sequence[str], table: Path, pdf: str, png: str) -> None:
    """Write the table `latency` as CSV, Markdown and LaTeX, and its figure.

    Args:
        parts: CSV files, one per backbone.
        table: CSV file to write; the other formats are written beside it.
        pdf: PDF file of the figure to write.
        png: PNG file of the figure to write.
    """
    frame = pd.concat([pd.read_csv(part) for part in parts], ignore_index=True)
    first = ["backbone", "device", "threads", "dtype", "batch_size", "encoder", "rate_target", "rate"]
    frame = frame[[*first, *(c for c in frame.columns if c not in first)]]
    write_table(table.with_suffix(""), frame, frame)
    use_style()
    save(plot(frame), pdf, png)


def plot(frame: pd.DataFrame) -> Figure:
    """Plot speed-up over rate for every backbone and batch size, beside its bound and the saving in MACs, 1 / rate.

    Exits that were chosen by time, if there are any, have a second row. Small dots are the bounds. Bars are 95 %
    intervals of the median over rounds, or ranges where there are fewer than six rounds. Of several policies and data
    sets that were measured, the first is drawn: the image-guided T-GEM on the training data set.
    """
    early = frame[frame["encoder"].isin(ASKED) & frame["exit_block"].isna()]
    early = early.drop_duplicates(["encoder", "backbone", "batch_size", "rate_target"])
    backbones = list(dict.fromkeys(early["backbone"]))
    rows = [[(encoder, backbone) for backbone in backbones] for encoder in ASKED if (early["encoder"] == encoder).any()]
    figure, axes = panel_grid(rows, 2.1, 3)
    sizes, targets = sorted(early["batch_size"].unique()), sorted(early["rate_target"].unique())
    for (encoder, backbone), axis in axes.items():
        part = early[(early["backbone"] == backbone) & (early["encoder"] == encoder)]
        rates = np.linspace(part["rate"].min() - 0.03, 1, 100)
        axis.plot(rates, 1 / rates, color=GREY, linestyle="--", label="saving on paper, 1 / rate")
        axis.axhline(1, color="black", linewidth=0.8, label="full encoder")
        axis.plot([], [], color="black", linestyle=":", linewidth=0.8, marker=".", markersize=3, label="bound")
        for k, size in enumerate(sizes):
            line = part[part["batch_size"] == size].sort_values("rate")
            at = line["rate"] + 0.008 * (k - (len(sizes) - 1) / 2)
            color = OKABE_ITO[k % len(OKABE_ITO)]
            axis.plot(at, line["bound"], color=color, linestyle=":", linewidth=0.8, marker=".", markersize=3)
            ends = (line["speedup"] - line["speedup_ci_low"], line["speedup_ci_high"] - line["speedup"])
            axis.errorbar(
                at, line["speedup"], yerr=ends, elinewidth=0.8,
                marker=MARKERS[k % len(MARKERS)], color=color,
                linestyle=DASHES[k % len(DASHES)], label=f"batch of {size}",
            )  # fmt: skip
        about = part.iloc[0]
        title(
            axis,
            f"{backbone}: {ASKED[encoder]}",
            f"{about['device']}, {about['threads']} thread{'s' if about['threads'] > 1 else ''}, {about['dtype']}",
        )
        axis.set_xticks(targets, [short(target) for target in targets])
        axis.set_ylim(bottom=0)
        if leftmost(axis):
            axis.set_ylabel("speed-up, measured")
    legend_below(figure, axes.values(), "rate: share of the encoder's multiply-accumulates that is spent")
    return figure
