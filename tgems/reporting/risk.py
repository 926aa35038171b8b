"""Plot what each policy spends if it promises to answer as the full encoder does."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tgems.reporting.curves import over_seeds
from tgems.reporting.panels import by_length, leftmost, legend_below, panel_grid, title
from tgems.reporting.style import Looks

RULES = 2


def risk(frames: dict[str, pd.DataFrame], looks: Looks) -> Figure:
    """Plot the rate over the share of images that may lose the full encoder's best text, as means over seeds.

    Shown are the T-GEMs, fixed exits, policies of the user's own, and the other policies that are cheapest on average
    over the whole figure: `RULES` with trained heads and one without. Each panel names the policy that is cheapest at
    the middle target.
    """
    table = over_seeds(frames["risk"])
    datasets = list(dict.fromkeys(table["dataset"]))
    blocks = [[(b, d) for d in datasets] for b in by_length(table["backbone"])]
    figure, axes = panel_grid(blocks, 2.0, 3)
    shown, targets = _shown(table, looks), sorted(table["risk_target"].unique())
    for (backbone, dataset), axis in axes.items():
        part = table.query("backbone == @backbone and dataset == @dataset")
        _panel(axis, part, shown, targets, looks)
        middle = targets[len(targets) // 2]
        cheapest = part[part["risk_target"] == middle].sort_values("rate", kind="stable").iloc[0]
        name = looks[cheapest["policy"]].label.strip() if cheapest["rate"] < 1 else "full encoder"
        title(axis, f"{backbone}: {dataset}", f"cheapest at {middle:.3g}".replace("0.", ".") + f": {name}")
        if leftmost(axis):
            axis.set_ylabel("rate that is needed")
    legend_below(figure, axes.values(), "percent of images that may lose the full encoder's best text")
    return figure


def _shown(table: pd.DataFrame, looks: Looks) -> list[str]:
    """Return the policies to draw, T-GEMs first."""
    found = looks.among(table["policy"])
    rates = table.groupby("policy", sort=False)["rate"].mean().sort_values(kind="stable")
    rivals = [policy for policy in rates.index if looks[policy].rival]
    trained = [policy for policy in rivals if not looks[policy].frozen_head][:RULES]
    frozen = [policy for policy in rivals if looks[policy].frozen_head][:1]
    return [p for p in found if looks[p].contender or looks[p].own or p in ("fixed", *trained, *frozen)]


def _panel(axis: Axes, part: pd.DataFrame, policies: list[str], targets: list[float], looks: Looks) -> None:
    """Draw a mark with its interval per policy and target, side by side; targets are equally spaced."""
    axis.axhline(1, color="black", linewidth=0.8, label="full encoder")
    step = 0.8 / len(policies)
    for k, policy in enumerate(policies):
        look, own = looks[policy], part[part["policy"] == policy].set_index("risk_target").reindex(targets)
        x = [place + step * (k - (len(policies) - 1) / 2) for place in range(len(targets))]
        ends = (own["rate"] - own["rate_ci_low"], own["rate_ci_high"] - own["rate"])
        axis.errorbar(
            x, own["rate"], yerr=ends, fmt=look.marker or ("x" if look.frozen_head else "_"),
            color=look.color, markersize=4, elinewidth=1,
            markerfacecolor="white" if look.frozen_head else look.color, label=look.label,
        )  # fmt: skip
    axis.set_xticks(range(len(targets)), [f"{100 * target:g}" for target in targets])
    axis.set_ylim(0, 1.04)
    axis.grid(axis="x", visible=False)
