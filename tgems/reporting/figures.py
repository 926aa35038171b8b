"""Plot the figures from tables. The only importer, with style, of seaborn."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from tgems.reporting.style import METRIC_NAMES, POLICY_STYLE, save, use_style


def plot_figure(
    name: str, tables: Sequence[str], parts: Mapping[str, Sequence[str]], variant: str, pdf: str, png: str
) -> None:
    """Plot one figure of `FIGURES` and write it as PDF and PNG.

    Args:
        name: Key of `FIGURES`.
        tables: CSV tables.
        parts: Further frames by name (`exits`, `gallery`), each in several Parquet files.
        variant: The variant to show.
        pdf: Output.
        png: Output.
    """
    use_style()
    frames = {Path(p).stem: pd.read_csv(p) for p in tables}
    for part, files in parts.items():
        frames[part] = pd.concat([pd.read_parquet(f) for f in files], ignore_index=True)
    frames = {k: f[f["variant"] == variant] if "variant" in f else f for k, f in frames.items()}
    save(FIGURES[name](frames), pdf, png)


def _panels(points: pd.DataFrame) -> list[tuple[str, str]]:
    """(dataset, metric) of every panel, classification first."""
    shown = points[points["metric"].isin(METRIC_NAMES)]
    pairs = shown[["dataset", "metric"]].drop_duplicates()
    order = list(METRIC_NAMES)
    return sorted(pairs.itertuples(index=False, name=None), key=lambda p: (order.index(p[1]), p[0]))


def _by_length(names: pd.Series) -> list[str]:
    """Distinct names, numbers in them ascending as long as they differ in length."""
    return sorted(names.unique(), key=lambda name: (len(name), name))


def _grid(points: pd.DataFrame, height: float = 2.3):
    """One row of axes per backbone, one column per panel."""
    panels, backbones = _panels(points), _by_length(points["backbone"])
    figure, axes = plt.subplots(
        len(backbones), len(panels), figsize=(2.3 * len(panels), height * len(backbones)), squeeze=False, sharex=True
    )
    return figure, axes, backbones, panels


def tradeoff(frames: dict[str, pd.DataFrame]) -> plt.Figure:
    """Quality over realised rate, all policies."""
    points = frames["tradeoff"]
    figure, axes, backbones, panels = _grid(points)
    for row, backbone in zip(axes, backbones, strict=True):
        for axis, (dataset, metric) in zip(row, panels, strict=True):
            part = points.query("backbone == @backbone and dataset == @dataset and metric == @metric")
            _tradeoff_panel(axis, part)
            axis.set_title(f"{dataset}: {METRIC_NAMES[metric]}", fontsize=9)
        row[0].set_ylabel(backbone)
    for axis in axes[-1]:
        axis.set_xlabel("share of encoder MACs")
    handles = {}
    for axis in axes.flat:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncol=4, bbox_to_anchor=(0.5, -0.11))
    figure.tight_layout()
    return figure


def _tradeoff_panel(axis, part: pd.DataFrame) -> None:
    full = part[part["policy"] == "full"]["value"].iloc[0]
    axis.axhline(full, color="black", linewidth=0.8, linestyle=":", label="full encoder")
    means = part[(part["seed"] == "mean") | (part["policy"] == "fixed_raw")]
    for policy, (label, color, marker) in POLICY_STYLE.items():
        line = means[means["policy"] == policy].sort_values("rate")
        if policy == "shuffled":
            shown = "tgem_bank" if (line["variant"] == "tgem_bank").any() else "tgem"
            line = line[line["variant"] == shown]
        if line.empty:
            continue
        light = policy in ("fixed", "fixed_raw", "hull")
        style = {"linewidth": 0.8, "alpha": 0.9} if light else {"linewidth": 1.4, "markersize": 4}
        axis.plot(line["rate"], line["value"], color=color, marker=marker, label=label, **style)
        if not light:
            axis.fill_between(line["rate"], line["ci_low"], line["ci_high"], color=color, alpha=0.12, linewidth=0)
    axis.set_xlim(0, 1.05)


def semantic_content(frames: dict[str, pd.DataFrame]) -> plt.Figure:
    """What each block already knows, with trained heads and with the frozen projection."""
    table = frames["semantic_content"]
    figure, axes, backbones, panels = _grid(table)
    looks = {"trained": ("trained head", "#0072B2", "o"), "raw": ("frozen projection", "#7F7F7F", ".")}
    for row, backbone in zip(axes, backbones, strict=True):
        for axis, (dataset, metric) in zip(row, panels, strict=True):
            part = table.query("backbone == @backbone and dataset == @dataset and metric == @metric")
            for head, (label, color, marker) in looks.items():
                line = part[part["head"] == head]
                x = line["exit_block"] / line["exit_block"].max()
                axis.plot(x, line["value"], color=color, marker=marker, markersize=4, label=label)
                axis.fill_between(x, line["ci_low"], line["ci_high"], color=color, alpha=0.15, linewidth=0)
                if head == "trained":
                    axis.plot(
                        x, line["earliest_share"], color="#E69F00", linestyle="--", label="right at some block so far"
                    )
            axis.set_title(f"{dataset}: {METRIC_NAMES[metric]}", fontsize=9)
            axis.set_ylim(0, 1.02)
        row[0].set_ylabel(backbone)
    for axis in axes[-1]:
        axis.set_xlabel("block / depth")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="lower center", ncol=3, bbox_to_anchor=(0.5, -0.05))
    figure.tight_layout()
    return figure


def exit_histogram(frames: dict[str, pd.DataFrame]) -> plt.Figure:
    """Where test images leave, per data set and target, mean over seeds."""
    shares = frames["exits"].query("policy in ('tgem', 'tgem_bank')")
    shares = (
        shares.groupby(["backbone", "dataset", "policy", "rate_target", "exit_block"])["share"].mean().reset_index()
    )
    rows = [(b, p) for b in _by_length(shares["backbone"]) for p in sorted(shares["policy"].unique())]
    datasets = sorted(shares["dataset"].unique())
    figure, axes = plt.subplots(
        len(rows), len(datasets), figsize=(2.2 * len(datasets), 1.7 * len(rows)), squeeze=False, layout="constrained"
    )
    for line, (backbone, policy) in zip(axes, rows, strict=True):
        for axis, dataset in zip(line, datasets, strict=True):
            part = shares.query("backbone == @backbone and policy == @policy and dataset == @dataset")
            table = part.pivot(index="rate_target", columns="exit_block", values="share")
            image = axis.imshow(table, cmap="viridis", vmin=0, vmax=1, aspect="auto", origin="lower")
            axis.set_yticks(range(len(table)), [f"{r:g}" for r in table.index])
            step = max(1, len(table.columns) // 6)
            axis.set_xticks(range(0, len(table.columns), step), table.columns[::step])
            axis.grid(False)
            if axis in axes[0]:
                axis.set_title(dataset)
            if axis in axes[-1]:
                axis.set_xlabel("exit block")
        line[0].set_ylabel(f"{backbone}\n{POLICY_STYLE[policy][0]}\nrate target", fontsize=7)
    figure.colorbar(image, ax=axes, label="share of test images", shrink=0.6)
    return figure


def rate_calibration(frames: dict[str, pd.DataFrame]) -> plt.Figure:
    """Rate realised on validation and on test over the target."""
    points = frames["tradeoff"].dropna(subset=["threshold"])
    points = points[points["seed"] != "mean"].drop_duplicates(["backbone", "dataset", "policy", "rate_target", "seed"])
    policies = [p for p in POLICY_STYLE if p in set(points["policy"])]
    figure, axes = plt.subplots(1, len(policies), figsize=(3 * len(policies), 2.8), squeeze=False, sharey=True)
    datasets = sorted(points["dataset"].unique())
    colors = sns.color_palette("colorblind", len(datasets))
    for axis, policy in zip(axes[0], policies, strict=True):
        part = points[points["policy"] == policy]
        axis.axhline(0, color="black", linewidth=0.8)
        for dataset, color in zip(datasets, colors, strict=True):
            one = part[part["dataset"] == dataset]
            axis.scatter(
                one["rate_target"], one["rate"] - one["rate_target"], s=14, color=color, label=f"{dataset}, test"
            )
        axis.scatter(
            part["rate_target"], part["rate_validation"] - part["rate_target"], s=8, marker="x", color="grey",
            label="all, validation",
        )  # fmt: skip
        axis.set_title(POLICY_STYLE[policy][0])
        axis.set_xlabel("rate target")
    axes[0, 0].set_ylabel("realised rate - target")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="lower center", ncol=3, bbox_to_anchor=(0.5, -0.16))
    figure.tight_layout()
    return figure


def gallery(frames: dict[str, pd.DataFrame]) -> plt.Figure:
    """Images by the block at which they left, up to four a block, with the share that left there."""
    images, exits = frames["gallery"], frames["exits"]
    rows = [(b, d) for d in sorted(images["dataset"].unique()) for b in _by_length(images["backbone"])]
    blocks = range(1, int(exits["exit_block"].max()) + 1)
    figure, axes = plt.subplots(len(rows), len(blocks), figsize=(0.85 * len(blocks), 1.0 * len(rows)), squeeze=False)
    for line, (backbone, dataset) in zip(axes, rows, strict=True):
        own = images.query("backbone == @backbone and dataset == @dataset")
        policy, target = own.iloc[0][["policy", "rate_target"]]
        shares = exits.query(
            "backbone == @backbone and dataset == @dataset and policy == @policy and rate_target == @target"
        )
        shares = shares.groupby("exit_block")["share"].mean()
        for axis, block in zip(line, blocks, strict=True):
            axis.axis("off")
            axis.imshow(_mosaic(own.loc[own["exit_block"] == block, "image"]))
            if block in shares.index:
                axis.set_title(f"{shares[block]:.0%}", fontsize=7, pad=2)
        line[0].text(
            -0.15, 0.5, f"{dataset}\n{backbone}", transform=line[0].transAxes, ha="right", va="center", fontsize=8
        )
    for axis, block in zip(axes[0], blocks, strict=True):
        axis.text(0.5, 1.4, f"block {block}", transform=axis.transAxes, ha="center", fontsize=8)
    middle = axes[0, len(blocks) // 2]
    title = f"{POLICY_STYLE[policy][0]}, rate target {target:g}: images that left at each block, and their share"
    middle.text(0, 1.8, title, transform=middle.transAxes, ha="center", fontsize=9)
    return figure


def _mosaic(images: Sequence[bytes], side: int = 2, gap: int = 4) -> np.ndarray:
    """PNG thumbnails side by side on white: `[h, w, 3]` uint8."""
    tiles = [plt.imread(io.BytesIO(data), format="png")[..., :3] for data in images]
    size = tiles[0].shape[0] if tiles else 64
    canvas = np.ones((side * (size + gap) - gap, side * (size + gap) - gap, 3))
    for i, tile in enumerate(tiles):
        top, left = (size + gap) * (i // side), (size + gap) * (i % side)
        canvas[top : top + size, left : left + size] = tile
    return canvas


FIGURES: dict[str, Callable] = {
    "tradeoff": tradeoff,
    "semantic_content": semantic_content,
    "exit_histogram": exit_histogram,
    "rate_calibration": rate_calibration,
    "gallery": gallery,
}
