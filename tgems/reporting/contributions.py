"""Plot what each part of a T-GEM adds at equal rate."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tgems.reporting.panels import by_length, leftmost, legend_below, panel_grid, panels, title
from tgems.reporting.style import METRIC_NAMES, Looks, short

STEPS = {
    "frozen_fixed": "frozen projection, fixed exit",
    "frozen_confidence": "frozen projection, best rule",
    "heads_fixed": "trained heads, fixed exit",
    "heads_confidence": "trained heads, best rule",
    "image_gates": "T-GEM, image-guided",
    "bank_gates": "T-GEM, bank-guided",
    "score_normalisation": "... scores normalised",
}
SHOWN = (0.45, 0.6, 0.75)
COLORS = ("#56B4E9", "#0072B2", "#000000")
MARKS = ("v", "o", "^")


def contributions(frames: dict[str, pd.DataFrame], looks: Looks) -> Figure:
    """Plot every step from the frozen projection to gates and score normalisation, at up to three rates."""
    table = frames["contributions"]
    shown = table[table["step"].isin(STEPS)]
    blocks = [[(b, *panel) for panel in panels(shown)] for b in by_length(shown["backbone"])]
    rates, steps = _rates(table), [s for s in STEPS if s in set(table["step"])]
    figure, axes = panel_grid(blocks, 0.24 * len(steps) + 0.65, labels=2.0)
    for (backbone, dataset, metric), axis in axes.items():
        part = table.query("backbone == @backbone and dataset == @dataset and metric == @metric")
        for place, (rate, color, mark) in enumerate(
            zip(rates, COLORS[-len(rates) :], MARKS[-len(rates) :], strict=True)
        ):
            own = part[part["rate"].sub(rate).abs() < 1e-9].set_index("step").reindex(steps)
            y = [k + 0.22 * (place - (len(rates) - 1) / 2) for k in range(len(steps))]
            low, high = (100 * own[f"method_ci_{end}"].fillna(own[f"ci_{end}"]) for end in ("low", "high"))
            value = 100 * own["value"]
            axis.errorbar(
                value, y, xerr=(value - low, high - value), fmt=mark, color=color, markersize=3,
                elinewidth=1, label=f"rate {short(rate)}",
            )  # fmt: skip
        for step, line in (("full", "-"), ("oracle", ":")):
            bound = part[part["step"] == step]["value"]
            if len(bound):
                axis.axvline(100 * bound.iloc[0], color="black", linewidth=0.8, linestyle=line, label=looks[step].label)
        axis.set_yticks(range(len(steps)), [STEPS[s] for s in steps] if leftmost(axis) else [""] * len(steps))
        axis.set_ylim(len(steps) - 0.4, -0.6)
        axis.set_xlim(right=min(100, axis.get_xlim()[1]))
        axis.xaxis.set_major_locator(MaxNLocator(3, integer=True, steps=[1, 2, 5, 10]))
        title(axis, dataset, METRIC_NAMES[metric])
        if leftmost(axis):
            axis.set_ylabel(backbone, weight="bold")
    legend_below(figure, axes.values(), "right on test (%), with 95 % intervals", columns=5)
    return figure


def _rates(table: pd.DataFrame) -> list[float]:
    """Return up to three rate targets, the usual ones if the run has them."""
    targets = sorted(table.loc[table["step"].isin(STEPS), "rate"].unique())
    usual = [rate for rate in targets if any(abs(rate - wanted) < 1e-9 for wanted in SHOWN)]
    return usual or targets[:3]
