"""Plot what each policy spends if it promises to answer as the full encoder does."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from tgems.reporting.panels import by_length, legend_below, panel_grid
from tgems.reporting.style import look

RULES = 2


def risk(frames: dict[str, pd.DataFrame]) -> Figure:
    """Plot the rate over the share of images that may lose the full encoder's best text, as means over seeds.

    Lines are the T-GEMs, fixed exits, and the other policies that are cheapest on average over the whole figure:
    `RULES` with trained heads and one without. Each panel names the policy that is cheapest at the middle target.
    """
    table = frames["risk"]
    table = table[table["seed"].eq("mean") | table["seed"].isna()]
    keys = [(b, d) for b in by_length(table["backbone"]) for d in dict.fromkeys(table["dataset"])]
    figure, axes = panel_grid([[key for key in keys if key[0] == b] for b in by_length(table["backbone"])], 1.9)
    shown = _shown(table)
    targets = sorted(table["risk_target"].unique())
    for (backbone, dataset), axis in axes.items():
        part = table.query("backbone == @backbone and dataset == @dataset")
        _panel(axis, part, shown, targets)
        middle = targets[len(targets) // 2]
        cheapest = part[part["risk_target"] == middle].sort_values("rate", kind="stable").iloc[0]
        name = look(cheapest["policy"]).label.strip() if cheapest["rate"] < 1 else "full encoder"
        axis.set_title(f"{dataset}, {backbone}\ncheapest at {middle:g}: {name}", fontsize=7)
    legend_below(figure, axes, "share of images that may lose the full encoder's best text")
    for key in keys[:: len(set(table["dataset"]))]:
        axes[key].set_ylabel("rate")
    return figure


def _shown(table: pd.DataFrame) -> list[str]:
    """Return the policies to draw, T-GEMs last."""
    own = [policy for policy in ("tgem", "tgem_bank") if policy in set(table["policy"])]
    fixed = [policy for policy in ("fixed",) if policy in set(table["policy"])]
    rules = table[~table["policy"].isin([*own, "fixed", "fixed_raw"])].groupby("policy", sort=False)["rate"].mean()
    cheapest = list(rules.sort_values(kind="stable").index)
    trained = [policy for policy in cheapest if not look(policy).light]
    return [*fixed, *[policy for policy in cheapest if look(policy).light][:1], *trained[:RULES], *own]


def _panel(axis: Axes, part: pd.DataFrame, policies: list[str], targets: list[float]) -> None:
    axis.axhline(1, color="black", linewidth=0.8, label="full encoder")
    for policy in policies:
        style, line = look(policy), part[part["policy"] == policy].sort_values("risk_target")
        axis.plot(
            line["risk_target"], line["rate"], color=style.color, marker=style.marker or ".",
            linestyle=style.line or "-", linewidth=1.2, markersize=3, label=style.label,
        )  # fmt: skip
        axis.fill_between(
            line["risk_target"], line["rate_ci_low"], line["rate_ci_high"], color=style.color, alpha=0.12, linewidth=0
        )
    if len(targets) > 1:
        axis.set_xscale("log")
    axis.set_xticks(targets)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.minorticks_off()
    axis.set_ylim(0, 1.05)
