"""Plot the figures of a run from its tables."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tgems.reporting.calibration import fitted, shown_first, transferred
from tgems.reporting.contributions import contributions
from tgems.reporting.gallery import gallery
from tgems.reporting.panels import by_length, legend_below, panel_grid, panels
from tgems.reporting.risk import risk
from tgems.reporting.semantic_content import semantic_content
from tgems.reporting.style import METRIC_NAMES, WIDTH, in_order, look, save, use_style

COMPARED = ("tradeoff", "contributions", "risk")
FROZEN = ("fixed_raw", "margin_raw")
"""Policies without seeds that `tradeoff` shows; the other rules on the frozen projection look much the same."""


def plot_figure(
    name: str,
    tables: Sequence[str],
    parts: Mapping[str, Sequence[str]],
    variant: str,
    compared: Sequence[str],
    policies: Sequence[str],
    pdf: str,
    png: str,
) -> None:
    """Plot one figure of `FIGURES` and write it as PDF and PNG.

    Args:
        name: Key of `FIGURES`.
        tables: CSV files of the tables.
        parts: Parquet files of further tables by name (`exits`, `gallery`).
        variant: The variant to show.
        compared: Data sets that the figures of `COMPARED` show; the other figures show all.
        policies: Policies of the run, as in the configuration.
        pdf: PDF file to write.
        png: PNG file to write.
    """
    use_style(policies)
    frames = {Path(p).stem: pd.read_csv(p, dtype={"seed": str}) for p in tables}
    for part, files in parts.items():
        frames[part] = pd.concat([pd.read_parquet(f) for f in files], ignore_index=True)
    frames = {k: f[f["variant"] == variant] if "variant" in f else f for k, f in frames.items()}
    if name in COMPARED:
        frames = {k: f[f["dataset"].isin(compared)] if "dataset" in f else f for k, f in frames.items()}
    save(FIGURES[name](frames), pdf, png)


def tradeoff(frames: dict[str, pd.DataFrame]) -> Figure:
    """Plot quality over realised rate, for all policies."""
    points, foreign = shown_first(frames["tradeoff"]), transferred(frames["tradeoff"])
    blocks = [[(b, *panel) for panel in panels(points)] for b in by_length(points["backbone"])]
    figure, axes = panel_grid(blocks, 1.75)
    for (backbone, dataset, metric), axis in axes.items():
        part = points.query("backbone == @backbone and dataset == @dataset and metric == @metric")
        _tradeoff_panel(axis, part)
        mark = ", transferred" if dataset in foreign else ""
        axis.set_title(f"{dataset}: {METRIC_NAMES[metric]}\n{backbone}{mark}")
    legend_below(figure, axes, "rate: multiply-accumulates of the full encoder that are spent")
    return figure


def _tradeoff_panel(axis: Axes, part: pd.DataFrame) -> None:
    full = part[part["policy"] == "full"]["value"].iloc[0]
    axis.axhline(full, color="black", linewidth=0.8, label="full encoder")
    means = part[part["seed"].eq("mean") | part["policy"].isin(FROZEN)]
    for policy in in_order(means["policy"]):
        style, line = look(policy), means[means["policy"] == policy].sort_values("rate")
        if policy == "shuffled":
            twins = [t for t in ("tgem_bank", "tgem") if t in set(line["twin_of"])]
            line = line[line["twin_of"].isin(twins[:1])]
        own = policy in ("tgem", "tgem_bank")
        width, front = (0.9, 2) if style.light else (1.6, 5) if own else (1.1, 3)
        size = 6 if style.marker == "*" else 4.2 if own else 3
        axis.plot(
            line["rate"], line["value"], color=style.color, marker=style.marker, linestyle=style.line or "none",
            linewidth=width, markersize=size, label=style.label, zorder=front,
        )  # fmt: skip
        if own:
            low, high = (line[f"method_ci_{end}"].fillna(line[f"ci_{end}"]) for end in ("low", "high"))
            axis.fill_between(line["rate"], low, high, color=style.color, alpha=0.15, linewidth=0)
    shown = means[means["rate_target"].notna() & ~means["policy"].isin(FROZEN)]["value"]
    low = min(shown.min(), full) if len(shown) else means["value"].min()
    room = max(0.02, (1 - low) * 0.06)
    axis.set_ylim(max(0, low - room), min(1.0, means["value"].max()) + room)
    axis.set_xlim(0.2, 1.03)


def exit_histogram(frames: dict[str, pd.DataFrame]) -> Figure:
    """Plot where test images leave, per data set and target, as means over seeds."""
    shares = shown_first(frames["exits"]).query("policy in ('tgem', 'tgem_bank')")
    keys = ["backbone", "dataset", "policy", "rate_target", "exit_block"]
    shares = shares.groupby(keys)["share"].mean().reset_index()
    rows = [(b, p) for b in by_length(shares["backbone"]) for p in in_order(shares["policy"])]
    datasets = sorted(shares["dataset"].unique())
    figure, axes = plt.subplots(
        len(rows), len(datasets), figsize=(WIDTH, 1.25 * len(rows) + 0.5), squeeze=False, layout="constrained"
    )
    for line, (backbone, policy) in zip(axes, rows, strict=True):
        for axis, dataset in zip(line, datasets, strict=True):
            part = shares.query("backbone == @backbone and policy == @policy and dataset == @dataset")
            table = part.pivot(index="rate_target", columns="exit_block", values="share")
            image = axis.imshow(table, cmap="viridis", vmin=0, vmax=1, aspect="auto", origin="lower")
            axis.set_yticks(range(len(table)), [f"{r:g}" for r in table.index] if axis is line[0] else [])
            step = max(1, len(table.columns) // 6)
            axis.set_xticks(range(0, len(table.columns), step), table.columns[::step])
            axis.grid(False)
            if axis in axes[0]:
                axis.set_title(dataset)
            if axis in axes[-1]:
                axis.set_xlabel("exit block")
        line[0].set_ylabel(f"{backbone}\n{look(policy).label}\nrate target", fontsize=7)
    figure.colorbar(image, ax=axes, label="share of test images that leave there", shrink=0.6)
    return figure


def rate_calibration(frames: dict[str, pd.DataFrame]) -> Figure:
    """Plot realised rate minus target: on validation and on test, by the source of the thresholds."""
    points = fitted(frames["tradeoff"])
    points = points.assign(excess=points["rate"] - points["rate_target"])
    policies = [p for p in in_order(points["policy"]) if not p.endswith("_raw")]
    rows = [c for c in ("in_domain", "transfer", "online") if c in set(points["calibration"])]
    figure, axes = plt.subplots(
        len(rows), len(policies), figsize=(WIDTH, 1.7 * len(rows) + 0.6), squeeze=False, sharex=True, sharey="row"
    )
    datasets = sorted(points["dataset"].unique())
    colors = sns.color_palette("colorblind", len(datasets))
    titles = {
        "in_domain": "thresholds from the\nset's own validation",
        "transfer": "thresholds from the\ntraining domain",
        "online": "the same, moved\nafter every image",
    }
    for line, calibration in zip(axes, rows, strict=True):
        for axis, policy in zip(line, policies, strict=True):
            part = points.query("policy == @policy and calibration == @calibration")
            axis.axhline(0, color="black", linewidth=0.8)
            for dataset, color in zip(datasets, colors, strict=True):
                one = part[part["dataset"] == dataset]
                axis.scatter(one["rate_target"], one["excess"], s=7, color=color, label=f"{dataset}, test")
            if calibration == "in_domain":
                before = part["rate_validation"] - part["rate_target"]
                axis.scatter(part["rate_target"], before, s=7, marker="x", color="grey", label="all, validation")
            if axis in axes[0]:
                axis.set_title(look(policy).label.replace(", ", ",\n").replace("learned ", "learned\n"))
        low, high = line[0].get_ylim()
        line[0].set_ylim(min(low, -0.02), max(high, 0.02))  # rates that are held are off by less than can be seen
        line[0].set_ylabel(f"realised rate - target\n{titles[calibration]}")
    for axis in axes[-1]:
        axis.set_xlabel("rate target")
    figure.tight_layout()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncol=6, bbox_to_anchor=(0.5, 0.02))
    return figure


FIGURES: dict[str, Callable] = {
    "tradeoff": tradeoff,
    "contributions": contributions,
    "semantic_content": semantic_content,
    "exit_histogram": exit_histogram,
    "rate_calibration": rate_calibration,
    "gallery": gallery,
    "risk": risk,
}
