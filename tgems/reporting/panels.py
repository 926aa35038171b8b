"""Lay out figures that have one panel per backbone, data set and metric."""

import textwrap
from collections.abc import Iterable

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from tgems.reporting.style import HALF_WIDTH, METRIC_NAMES, WIDTH

LETTER, LINE = 0.068, 0.16
"""Width of a letter of a title, and height of a line of a legend, in inches."""


def panels(points: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (dataset, metric) of every panel, classification first."""
    shown = points[points["metric"].isin(METRIC_NAMES)]
    pairs = shown[["dataset", "metric"]].drop_duplicates()
    order = list(METRIC_NAMES)
    return sorted(pairs.itertuples(index=False, name=None), key=lambda p: (order.index(p[1]), p[0]))


def by_length(names: pd.Series) -> list[str]:
    """Return distinct names, short ones first, so that demo-vit-8 precedes demo-vit-12."""
    return sorted(names.unique(), key=lambda name: (len(name), name))


def columns_for(blocks: Iterable[list], most: int = 4) -> int:
    """Return the number of panels per row: four if that fills the rows, else three, or fewer if there are no more."""
    longest = [len(block) for block in blocks]
    if max(longest) <= most:
        return max(longest)
    return most if all(n % most == 0 for n in longest) else min(most, 3)


def figure_width(columns: int) -> float:
    """Return the width of a figure in inches: one column of a paper for up to two panels side by side, else two."""
    return HALF_WIDTH if columns <= 2 else WIDTH


def panel_slots(
    blocks: list[list[tuple]], height: float, most: int = 4, labels: float = 0
) -> tuple[Figure, dict[tuple, SubplotSpec]]:
    """Make a figure with slots for panels in rows; every block begins a new row.

    Args:
        blocks: Keys of the panels, by block.
        height: Height of a panel in inches.
        most: Largest number of panels side by side.
        labels: Width of the labels of all rows in inches, by which a figure with few panels is made wider.

    Returns:
        The figure, and the place of each panel by key.
    """
    columns = columns_for(blocks, most)
    rows = sum(-(-len(block) // columns) for block in blocks)
    width = min(WIDTH, figure_width(columns) + labels)
    figure = plt.figure(figsize=(width, height * rows), layout="constrained")
    grid = figure.add_gridspec(rows, columns)
    found, row = {}, 0
    for block in blocks:
        for k, key in enumerate(block):
            found[key] = grid[row + k // columns, k % columns]
        row += -(-len(block) // columns)
    return figure, found


def panel_grid(
    blocks: list[list[tuple]], height: float, most: int = 4, labels: float = 0
) -> tuple[Figure, dict[tuple, Axes]]:
    """Make a figure with one panel per key (`panel_slots`)."""
    figure, slots = panel_slots(blocks, height, most, labels)
    return figure, {key: figure.add_subplot(slot) for key, slot in slots.items()}


def block_ticks(last: int) -> list[int]:
    """Return up to five numbers of blocks to mark on an axis, the first and the last among them."""
    step = 4 if last <= 16 else -(-last // 16) * 4
    return [1, *range(step, last - step // 2, step), last]


def leftmost(axis: Axes) -> bool:
    """Return whether a panel is the first of its row."""
    place = axis.get_subplotspec()
    return place is None or place.get_topmost_subplotspec().colspan.start == 0


def title(axis: Axes, *lines: str) -> None:
    """Write a title above a panel, with long lines wrapped."""
    place = axis.get_subplotspec()
    columns = 1 if place is None else place.get_topmost_subplotspec().get_gridspec().ncols
    figure = axis.get_figure(root=True)
    letters = int((figure.get_figwidth() if figure else WIDTH) / columns / LETTER)
    axis.set_title("\n".join(textwrap.fill(line, letters, max_lines=3, break_on_hyphens=False) for line in lines))


def legend_below(figure: Figure, axes: Iterable[Axes], label: str = "", columns: int | None = None) -> None:
    """Write one label for all x axes, and below it one legend for the lines of all panels; the figure grows by both.

    Args:
        figure: Figure.
        axes: Panels.
        label: Label of all x axes; empty for none.
        columns: Number of columns of the legend; the default is the number that fits into the width of the figure.
    """
    handles = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    entry = 0.9 * LETTER * max(map(len, handles)) + 0.5  # names are long, and mostly of narrow letters
    columns = columns or max(1, min(4, int(figure.get_figwidth() / entry)))
    lines = -(-len(handles) // columns) + bool(label)
    figure.set_figheight(figure.get_figheight() + LINE * lines + 0.1)
    figure.legend(handles.values(), handles.keys(), title=label, loc="outside lower center", ncol=columns)
