"""Plot how much semantic content each block holds, and for which images, which is the abstract's first finding."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tgems.reporting.panels import (
    block_ticks,
    by_length,
    columns_for,
    leftmost,
    legend_below,
    panel_grid,
    panels,
    title,
)
from tgems.reporting.style import DASHES, MARKERS, METRIC_NAMES, OKABE_ITO, Looks

NEARLY = 0.9
ATTRIBUTES = {"difficulty": "difficulty", "n_digits": "number of digits"}
THIRDS = ("clean", "middle", "hard")
HEADS = {"trained": ("trained heads", "-"), "raw": ("frozen projection", ":")}
LEVELS = ("#56B4E9", "#0072B2", "#000000")
"""Colours of groups of images, from light to dark."""


def semantic_content(frames: dict[str, pd.DataFrame], looks: Looks) -> Figure:
    """Plot quality after every block, with trained and frozen heads for all images, then by groups of images.

    The first rows have one panel per task, with the lines of all backbones; a triangle on the horizontal axis marks the
    block after which trained heads reach 90 % of the full encoder. The last row has the deepest backbone only.
    """
    table = frames["semantic_content"]
    whole = table[table["attribute"] == "all"]
    backbones = by_length(table["backbone"])
    tasks = [(*panel, "all") for panel in panels(whole)]
    groups = _most_different(table[table["backbone"] == backbones[-1]], columns_for([tasks], 3))
    figure, axes = panel_grid([block for block in (tasks, groups) if block], 1.5, 3)
    for (dataset, metric, attribute), axis in axes.items():
        part = table.query("dataset == @dataset and metric == @metric and attribute == @attribute")
        if attribute == "all":
            title(axis, dataset, METRIC_NAMES[metric])
            for k, backbone in enumerate(backbones):
                _heads(axis, part[part["backbone"] == backbone], backbone, k)
        else:
            title(axis, f"{dataset}, by {ATTRIBUTES[attribute]}", f"{METRIC_NAMES[metric]}")
            _groups(axis, part[(part["backbone"] == backbones[-1]) & (part["head"] == "trained")])
        axis.set_title(axis.get_title(), pad=6)
        axis.set_ylim(0, 100)
        axis.set_yticks((0, 50, 100))
        axis.set_xlim(0.5, table["exit_block"].max() + 0.5)
        axis.set_xticks(block_ticks(table["exit_block"].max()))
        if leftmost(axis):
            axis.set_ylabel("right (%)" if attribute == "all" else f"right (%)\n{backbones[-1]}")
    columns = len(backbones) if len(backbones) < 4 else 3
    legend_below(figure, [axes[key] for key in tasks], "block after which the image leaves", columns)
    return figure


def _most_different(table: pd.DataFrame, limit: int) -> list[tuple[str, str, str]]:
    """Return the (dataset, metric, attribute) whose groups differ most at some block, with trained heads."""
    own = table[(table["attribute"] != "all") & (table["head"] == "trained")]
    keys = ["dataset", "metric", "attribute"]
    spread = own.groupby([*keys, "exit_block"])["value"].agg(lambda v: v.max() - v.min())
    return list(spread.groupby(keys).max().nlargest(limit).index)


def _heads(axis: Axes, part: pd.DataFrame, backbone: str, place: int) -> None:
    color, marker = OKABE_ITO[place % len(OKABE_ITO)], MARKERS[place % len(MARKERS)]
    for head, (label, dash) in HEADS.items():
        line = part[part["head"] == head].sort_values("exit_block")
        if line.empty:
            continue
        axis.plot(
            line["exit_block"], 100 * line["value"], color=color, linestyle=dash, marker=marker, clip_on=False,
            markerfacecolor=color if head == "trained" else "white", label=f"{backbone}, {label}",
        )  # fmt: skip
        axis.fill_between(
            line["exit_block"], 100 * line["ci_low"], 100 * line["ci_high"], color=color, alpha=0.15, linewidth=0
        )
    trained = part[part["head"] == "trained"].sort_values("exit_block")
    if len(trained):
        axis.plot(
            trained["exit_block"], 100 * trained["earliest_share"], color=color, linestyle=(0, (6, 1.5)), linewidth=0.8,
            label=f"{backbone}, right here or earlier",
        )  # fmt: skip
        nearly = trained[trained["value"] >= NEARLY * trained["value"].iloc[-1]]["exit_block"].iloc[0]
        axis.plot([nearly], [0], color=color, marker="^", markersize=max(3, 8 - 3 * place), clip_on=False, zorder=5)


def _groups(axis: Axes, part: pd.DataFrame) -> None:
    """Draw one line per group, with a legend of the panel's own where the lines leave room."""
    for k, name in enumerate(part["group"].drop_duplicates()):
        line, color = part[part["group"] == name].sort_values("exit_block"), LEVELS[k % len(LEVELS)]
        label = f"{name} third" if name in THIRDS else f"{name} digit{'s' if name != '1' else ''}"
        axis.plot(
            line["exit_block"], 100 * line["value"], color=color, linestyle=DASHES[k % len(DASHES)],
            marker=MARKERS[k % len(MARKERS)], label=label, clip_on=False,
        )  # fmt: skip
        axis.fill_between(
            line["exit_block"], 100 * line["ci_low"], 100 * line["ci_high"], color=color, alpha=0.15, linewidth=0
        )
    axis.legend(loc="lower right", handlelength=1.8, labelspacing=0.15, borderpad=0.1, borderaxespad=0.2)
