"""Plot all policies at equal rate, as differences to the hull of fixed exits: a heat map with numbers."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tgems.reporting.calibration import shown_first, transferred
from tgems.reporting.curves import MeanCurve, level, mean_curve, over_seeds, reference, reference_curve
from tgems.reporting.panels import by_length, leftmost, panel_grid, panels, title
from tgems.reporting.style import METRIC_NAMES, Looks, short

COLORS = "PuOr"
LIMIT = 10
"""Points of difference at which colours are strongest."""
ROW = 0.155
"""Inches."""
NAMES = {"hull": "the hull of fixed exits", "fixed": "fixed exits", "full": "the full encoder"}


def all_policies(frames: dict[str, pd.DataFrame], looks: Looks) -> Figure:
    """Draw a table of what each policy adds to the hull of fixed exits, in whole points, at every rate target.

    A policy's value at a rate target is compared with the hull at the rate that is realised. Policies without rate
    targets, such as oracles, are read at the target. The first row is the hull itself, in percent.
    """
    points, foreign = over_seeds(shown_first(frames["tradeoff"])), transferred(frames["tradeoff"])
    backbones = by_length(points["backbone"])
    blocks = [[(b, *panel) for panel in panels(points[points["backbone"] == b])] for b in backbones]
    base, targets = reference(points), sorted(points["rate_target"].dropna().unique())
    rows = [row for row in _rows(points, looks) if row[0][0] != base]
    figure, axes = panel_grid(blocks, ROW * (len(rows) + 1) + 0.55, labels=2.0)
    for (backbone, dataset, metric), axis in axes.items():
        part = points.query("backbone == @backbone and dataset == @dataset and metric == @metric")
        full = 100 * part.loc[part["policy"] == "full", "value"].iloc[0]
        _panel(axis, part, targets, reference_curve(part, full), full, [key for key, _ in rows])
        axis.set_yticks(range(len(rows) + 1), [""] * (len(rows) + 1))
        if leftmost(axis):
            first = f"{NAMES[base]} (%)".removeprefix("the ")
            axis.set_yticks(range(len(rows) + 1), [first, *(label for _, label in rows)])
            axis.set_ylabel(backbone, weight="bold")
        title(axis, dataset + (", transferred" if dataset in foreign else ""), METRIC_NAMES[metric])
    figure.set_figheight(figure.get_figheight() + 0.2)
    figure.supxlabel(f"rate; numbers are differences to {NAMES[base]} in points")
    return figure


def _rows(points: pd.DataFrame, looks: Looks) -> list[tuple[tuple[str, str | None], str]]:
    """Return the key (policy, twin of) and the label of every policy, each T-GEM followed by its shuffled twin."""
    twins, found = set(points["twin_of"].dropna()), []
    for policy in sorted(looks.among(points["policy"]), key=lambda policy: policy != "full"):
        label = looks[policy].label.strip()
        found.append(((policy, None), label))
        if looks[policy].contender and policy in twins:
            found.append((("shuffled", policy), f"{label}, shuffled"))
    return found


def _panel(
    axis: Axes, part: pd.DataFrame, targets: list[float], base: MeanCurve, full: float, keys: list[tuple]
) -> None:
    """Draw the cells of one panel: the reference in percent, then a row of differences per policy."""
    shown = np.full((len(keys) + 1, len(targets)), np.nan)
    for row, (policy, twin) in enumerate(keys, start=1):
        shown[row] = _differences(part, policy, twin, targets, base, full)
    axis.imshow(shown, cmap=COLORS, vmin=-LIMIT, vmax=LIMIT, aspect="auto")
    for column, value in enumerate(base.at(targets)):
        axis.text(column, 0, f"{value:.0f}" if np.isfinite(value) else "", ha="center", va="center", weight="bold")
    for (row, column), value in np.ndenumerate(shown):
        if np.isfinite(value):
            light = abs(value) > 0.6 * LIMIT
            axis.text(column, row, _signed(value), ha="center", va="center", color="white" if light else "black")
    axis.set_xticks(range(len(targets)), [short(target) for target in targets])
    axis.tick_params(length=0)
    axis.grid(False)
    axis.axhline(0.5, color="black", linewidth=0.6)


def _differences(
    part: pd.DataFrame, policy: str, twin: str | None, targets: list[float], base: MeanCurve, full: float
) -> np.ndarray:
    """Return the differences of a policy to the reference at each rate target, in points; NaN where it has none."""
    own = part[part["policy"] == policy]
    own = own[own["twin_of"] == twin] if twin else own
    own = own[own["rate_target"].notna()].drop_duplicates("rate_target").set_index("rate_target").reindex(targets)
    if own["value"].notna().any():
        return 100 * own["value"].to_numpy() - base.at(own["rate"])
    curve = level(full) if policy == "full" else mean_curve(part, policy, twin)
    return curve.at(targets) - base.at(targets)


def _signed(points: float) -> str:
    return f"{round(points):+d}".replace("-", "\N{MINUS SIGN}").replace("+0", "0")
