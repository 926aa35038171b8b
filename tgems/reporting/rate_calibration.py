"""Plot how far realised rates are from their targets, by the source of the thresholds."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tgems.reporting.calibration import fitted
from tgems.reporting.panels import figure_width, legend_below, title
from tgems.reporting.style import Looks, short

CALIBRATIONS = {
    "in_domain": "thresholds of own\nvalidation images",
    "transfer": "thresholds of\ntraining domain",
    "online": "the same, moved\nafter each image",
}
OTHERS = ("all other policies", "#B5B5B5")
RIVALS = 2
LEAST = 2.0
"""Smallest range of the vertical axis on either side, in points of rate; smaller deviations do not matter."""


def rate_calibration(frames: dict[str, pd.DataFrame], looks: Looks) -> Figure:
    """Plot realised rate minus target on test images, as means over seeds and backbones, with the range of both.

    T-GEMs, policies of the user's own, and the `RIVALS` other policies with trained heads that are best on validation
    are drawn one by one; the range of all others is grey.
    """
    points = fitted(frames["tradeoff"])
    points = points.assign(excess=100 * (points["rate"] - points["rate_target"]))
    rows = [c for c in CALIBRATIONS if c in set(points["calibration"])]
    datasets, shown = sorted(points["dataset"].unique()), _shown(points, frames["areas"], looks)
    figure, axes = plt.subplots(
        len(rows), len(datasets), figsize=(figure_width(len(datasets)), 1.25 * len(rows) + 0.3), squeeze=False,
        sharex=True, sharey="row", layout="constrained",
    )  # fmt: skip
    targets = sorted(points["rate_target"].unique())
    for line, calibration in zip(axes, rows, strict=True):
        for axis, dataset in zip(line, datasets, strict=True):
            part = points.query("dataset == @dataset and calibration == @calibration")
            _panel(axis, part, shown, targets, looks)
            if axis in axes[0]:
                title(axis, dataset)
            if part.empty:
                axis.text(0.5, 0.6, "none", transform=axis.transAxes, ha="center")
        low, high = line[0].get_ylim()
        line[0].set_ylim(min(low, -LEAST), max(high, LEAST))
        line[0].set_ylabel(CALIBRATIONS[calibration])
    figure.supylabel("realised rate minus target (points)")
    legend_below(figure, axes.flat, "rate target")
    return figure


def _shown(points: pd.DataFrame, areas: pd.DataFrame, looks: Looks) -> list[str]:
    """Return the policies to draw one by one."""
    means = areas[areas["twin_of"].isna()].groupby("policy")["area_validation"].mean().dropna()
    best = [policy for policy in means.sort_values(ascending=False, kind="stable").index if policy in looks.by_name]
    rivals = [policy for policy in best if looks[policy].rival and not looks[policy].frozen_head][:RIVALS]
    found = looks.among(points["policy"])
    return [p for p in found if looks[p].contender or looks[p].own or p in rivals]


def _panel(axis: Axes, part: pd.DataFrame, shown: list[str], targets: list[float], looks: Looks) -> None:
    """Draw a mark and a range per policy and rate target, side by side; targets are equally spaced."""
    axis.axhline(0, color="black", linewidth=0.6)
    step = 0.8 / (len(shown) + 1)
    for k, policy in enumerate([None, *shown]):
        own = part[~part["policy"].isin(shown)] if policy is None else part[part["policy"] == policy]
        if own.empty:
            continue
        found = own.groupby("rate_target")["excess"].agg(["mean", "min", "max"]).reindex(targets)
        x = [place + step * (k - len(shown) / 2) for place in range(len(targets))]
        if policy is None:
            axis.vlines(x, found["min"], found["max"], color=OTHERS[1], linewidth=3, label=OTHERS[0])
            continue
        look = looks[policy]
        ends = (found["mean"] - found["min"], found["max"] - found["mean"])
        axis.errorbar(
            x, found["mean"], yerr=ends, fmt=look.marker, color=look.color, markersize=3, elinewidth=1, label=look.label
        )
    axis.set_xticks(range(len(targets)), [short(target) for target in targets])
    axis.set_xlim(-0.6, len(targets) - 0.4)
    axis.margins(y=0.1)
    axis.grid(axis="x", visible=False)
