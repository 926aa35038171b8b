"""Plot the abstract's first finding: how much semantic content each block holds, and for which images."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tgems.reporting.panels import by_length, legend_below, panel_grid, panels
from tgems.reporting.style import METRIC_NAMES

NEARLY = 0.9
ATTRIBUTES = {"difficulty": "difficulty", "n_digits": "number of digits"}
THIRDS = ("clean", "middle", "hard")
HEADS = {"trained": ("trained head", "#0072B2", "o"), "raw": ("frozen projection", "#7F7F7F", "s")}


def semantic_content(frames: dict[str, pd.DataFrame]) -> Figure:
    """Plot quality after every block, with trained and frozen heads for all images, then by groups of images."""
    table = frames["semantic_content"]
    whole = table[table["attribute"] == "all"]
    backbones = by_length(table["backbone"])
    blocks = [[(b, *panel, "all") for panel in panels(whole)] for b in backbones]
    blocks.append([(backbones[-1], *key) for key in _most_different(table[table["backbone"] == backbones[-1]])])
    figure, axes = panel_grid([block for block in blocks if block], 1.75)
    for (backbone, dataset, metric, attribute), axis in axes.items():
        part = table.query(
            "backbone == @backbone and dataset == @dataset and metric == @metric and attribute == @attribute"
        )
        by = "" if attribute == "all" else f", by {ATTRIBUTES[attribute]}"
        axis.set_title(f"{dataset}: {METRIC_NAMES[metric]}\n{backbone}{by}")
        if attribute == "all":
            _heads_panel(axis, part)
        else:
            _groups_panel(axis, part[part["head"] == "trained"])
        axis.set_ylim(0, 1.03)
        axis.xaxis.get_major_locator().set_params(integer=True)  # pyright: ignore[reportCallIssue]
    legend_below(figure, axes, "block after which the image leaves")
    return figure


def _most_different(table: pd.DataFrame, limit: int = 3) -> list[tuple[str, str, str]]:
    """Return the (dataset, metric, attribute) whose groups differ most at some block, with trained heads."""
    own = table[(table["attribute"] != "all") & (table["head"] == "trained")]
    keys = ["dataset", "metric", "attribute"]
    spread = own.groupby([*keys, "exit_block"])["value"].agg(lambda v: v.max() - v.min())
    return list(spread.groupby(keys).max().nlargest(limit).index)


def _heads_panel(axis: Axes, part: pd.DataFrame) -> None:
    for head, (label, color, marker) in HEADS.items():
        line = part[part["head"] == head].sort_values("exit_block")
        if line.empty:
            continue
        axis.plot(
            line["exit_block"], line["value"], color=color, marker=marker, markersize=3, linewidth=1.2, label=label
        )
        axis.fill_between(line["exit_block"], line["ci_low"], line["ci_high"], color=color, alpha=0.15, linewidth=0)
    trained = part[part["head"] == "trained"].sort_values("exit_block")
    axis.plot(
        trained["exit_block"], trained["earliest_share"], color="#E69F00", linestyle="--", linewidth=1.2,
        label="right at this block or an earlier one",
    )  # fmt: skip
    full, last = trained["value"].iloc[-1], trained["exit_block"].iloc[-1]
    axis.axhline(full, color="black", linewidth=0.6, label="full encoder")
    nearly = trained[trained["value"] >= NEARLY * full]["exit_block"].iloc[0]
    axis.axvline(nearly, color="#0072B2", linewidth=0.6, linestyle=":")
    axis.text(
        nearly + (0.15 if nearly < last / 2 else -0.15), 0.05, f"{NEARLY:.0%} of full\nat block {nearly} of {last}",
        ha="left" if nearly < last / 2 else "right", fontsize=6.5, color="#0072B2",
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}, zorder=4,
    )  # fmt: skip


def _groups_panel(axis: Axes, part: pd.DataFrame) -> None:
    names = list(part["group"].drop_duplicates())
    for name, color in zip(names, sns.color_palette("viridis", len(names) + 1), strict=False):
        line = part[part["group"] == name].sort_values("exit_block")
        label = f"{name} third" if name in THIRDS else f"{name} digit{'s' if name != '1' else ''}"
        axis.plot(line["exit_block"], line["value"], color=color, linewidth=1.2, marker=".", label=label)
        axis.fill_between(line["exit_block"], line["ci_low"], line["ci_high"], color=color, alpha=0.15, linewidth=0)
