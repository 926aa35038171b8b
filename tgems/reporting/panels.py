"""Lay out figures that have one panel per backbone, data set and metric."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tgems.reporting.style import METRIC_NAMES, WIDTH

COLUMNS = 3


def panels(points: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (dataset, metric) of every panel, classification first."""
    shown = points[points["metric"].isin(METRIC_NAMES)]
    pairs = shown[["dataset", "metric"]].drop_duplicates()
    order = list(METRIC_NAMES)
    return sorted(pairs.itertuples(index=False, name=None), key=lambda p: (order.index(p[1]), p[0]))


def by_length(names: pd.Series) -> list[str]:
    """Return distinct names, short ones first, so that demo-vit-8 precedes demo-vit-12."""
    return sorted(names.unique(), key=lambda name: (len(name), name))


def panel_grid(blocks: list[list[tuple]], height: float) -> tuple[Figure, dict[tuple, Axes]]:
    """Make a figure as wide as two columns, with three or four panels per row; every block begins a new row.

    Args:
        blocks: Keys of the panels, by block.
        height: Height of a panel in inches.

    Returns:
        The figure, and its axes by key.
    """
    columns = 4 if all(len(block) == 4 for block in blocks) else COLUMNS
    rows = sum(-(-len(block) // columns) for block in blocks)
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, height * rows + 0.6), squeeze=False)
    slots = iter(axes.flat)
    found = {}
    for block in blocks:
        found |= {key: next(slots) for key in block}
        for _ in range(-len(block) % columns):
            next(slots).axis("off")
    return figure, found


def legend_below(figure: Figure, axes: dict, label: str) -> None:
    """Write one label for all x axes, and one legend for the lines of all panels, below the panels."""
    handles = {}
    for axis in axes.values():
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    figure.supxlabel(label, fontsize=8)
    figure.tight_layout()
    figure.legend(handles.values(), handles.keys(), loc="upper center", ncol=4, bbox_to_anchor=(0.5, 0.005))
