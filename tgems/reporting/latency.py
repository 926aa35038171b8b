"""Write the table and the figure of measured speed."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from tgems.reporting.style import WIDTH, save, use_style
from tgems.reporting.tables import write_table


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
    """Plot speed-up over rate for every backbone and batch size, beside what the saving in MACs promises."""
    early = frame[frame["encoder"] == "early exit"]
    backbones = list(dict.fromkeys(early["backbone"]))
    figure, axes = plt.subplots(
        1, len(backbones), figsize=(WIDTH, 2.6), squeeze=False, sharey=True, layout="constrained"
    )
    sizes = sorted(early["batch_size"].unique())
    colors = dict(zip(sizes, sns.color_palette("colorblind", len(sizes)), strict=True))
    for axis, backbone in zip(axes[0], backbones, strict=True):
        part = early[early["backbone"] == backbone]
        rates = np.linspace(part["rate"].min() - 0.03, 1, 100)
        axis.plot(rates, 1 / rates, color="black", linewidth=0.9, linestyle="--", label="saving on paper, 1 / rate")
        axis.axhline(1, color="black", linewidth=0.8)
        for size in sizes:
            line = part[part["batch_size"] == size].sort_values("rate")
            axis.plot(
                line["rate"], line["speedup"], marker="o", markersize=4, color=colors[size], label=f"batch of {size}"
            )
        about = part.iloc[0]
        axis.set_title(f"{backbone}\n{about['device']}, {about['threads']} threads, {about['dtype']}")
        axis.set_xlabel("rate: share of the encoder's MACs spent")
    axes[0, 0].set_ylabel("speed-up, measured")
    axes[0, 0].legend(fontsize=7)
    return figure
