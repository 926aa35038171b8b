"""Plot early exit and its alternatives at the same cost, and write the tables behind the figure."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullLocator

from tgems.evaluation.pareto import FIXED, FULL, MERGED, MERGING, RULE, TGEM
from tgems.reporting.panels import by_length, leftmost, legend_below, panel_grid, panels, title
from tgems.reporting.pareto_tables import write_pareto
from tgems.reporting.style import GREY, METRIC_NAMES, Look, Looks, looks_of, save, use_style
from tgems.reporting.tradeoff import RIVAL

FRONT = Look("front: nothing is better at this cost", "#56B4E9", "")
MERGES = Look("token merging (r tokens per block)", "#CC79A7", "D")
ENCODER = Look("full encoder", "#000000", "*")


def report_pareto(
    evaluations: Sequence[str],
    settings: Sequence[str],
    latency: Sequence[str],
    config: Mapping,
    table: Path,
    pdf: str,
    png: str,
) -> None:
    """Write the tables `pareto` and `budgets`, and the figure `pareto` of the first variant.

    Args:
        evaluations: `outcomes.parquet` of every evaluation, with its other files beside it.
        settings: `validation_settings.parquet` of every backbone, variant and data set with validation images.
        latency: `latency.csv` of every backbone; none if speed is not measured.
        config: Complete configuration.
        table: CSV file of the table `pareto`; the others are written beside it.
        pdf: PDF file of the figure to write.
        png: PNG file of the figure to write.
    """
    found = write_pareto(evaluations, settings, latency, config, table.parent)
    shown = found["variant"].eq(next(iter(config["variants"])))
    shown &= found["dataset"].isin(config["evaluation"]["compared"])
    use_style()
    save(plot(found[shown], looks_of(config["policies"])), pdf, png)


def plot(table: pd.DataFrame, looks: Looks) -> Figure:
    """Plot quality over cost: a row of panels for GMACs, and one for each batch size at which speed was measured.

    Drawn are full encoders with their names, encoders that merge tokens, fixed exits, T-GEMs with and without token
    merging, and the other exit rule that is best on validation images. The front is that of all settings.

    Args:
        table: Rows of the table `pareto`, of one variant.
        looks: Policies of the run.
    """
    blocks = [[("gmacs", 0, *panel) for panel in panels(table)]]
    measured = table[table["cost_kind"].eq("ms")]
    for size in sorted(measured["batch_size"].unique()):
        own = measured[measured["batch_size"].eq(size)]
        blocks.append([("ms", int(size), *panel) for panel in panels(own)])
    figure, axes = panel_grid(blocks, 2.2)
    unit = 1000 if table.loc[table["cost_kind"].eq("gmacs"), "cost"].max() < 1 else 1
    for (kind, size, dataset, metric), axis in axes.items():
        own = table["cost_kind"].eq(kind) & table["dataset"].eq(dataset) & table["metric"].eq(metric)
        part = table[own & table["batch_size"].eq(size)] if size else table[own]
        part = part if size else part.assign(cost=unit * part["cost"])
        rule = best_rule(part)
        _panel(axis, part, looks, rule)
        _names(axis, part[part["kind"].isin((FULL,) if size else (FULL, MERGING))])
        name = [f"\N{WHITE UP-POINTING TRIANGLE} {looks[rule].label.strip()}"] if rule else []
        title(axis, dataset, METRIC_NAMES[metric], *name)
        axis.set_xlabel(f"ms per image, batch of {size}" if size else f"{'M' if unit > 1 else 'G'}MACs per image")
        if leftmost(axis):
            axis.set_ylabel("right (%)")
    legend_below(figure, axes.values())
    return figure


def best_rule(part: pd.DataFrame) -> str | None:
    """Return the exit rule that is best on validation images, in the mean over its settings; None without rules.

    Args:
        part: Rows of the table `pareto` of one panel.
    """
    own = part[part["kind"].eq(RULE)]
    means = own.groupby("policy")["value_validation"].mean().fillna(own.groupby("policy")["value"].mean())
    return None if means.empty else str(means.idxmax())


def _panel(axis: Axes, part: pd.DataFrame, looks: Looks, rule: str | None) -> None:
    """Draw the settings of one data set, metric, kind of cost and batch size."""
    part = part.assign(value=100 * part["value"]).dropna(subset=["cost", "value"]).sort_values("cost", kind="stable")
    front = part[part["non_dominated"]].drop_duplicates("cost")
    right = part["cost"].max()
    axis.plot(
        [*front["cost"], right], [*front["value"], front["value"].iloc[-1]], drawstyle="steps-post",
        color=FRONT.color, linewidth=4, alpha=0.45, label=FRONT.label, zorder=1, solid_capstyle="butt",
    )  # fmt: skip
    lines = [(FIXED, "fixed", Look("fixed exit, trained head", GREY, ""))]
    lines += [(RULE, rule, RIVAL._replace(label="best other exit rule (named)"))] if rule else []
    for policy in looks.contenders(part["policy"]):
        lines += [(TGEM, policy, looks[policy])]
        look = looks[policy]._replace(label=f"{looks[policy].label.strip()}, on merged tokens", line=":")
        lines += [(TGEM + MERGED, policy, look)]
    for kind, policy, look in lines:
        own = part[part["kind"].eq(kind) & part["policy"].eq(policy)]
        for backbone in by_length(own["backbone"]):
            _line(axis, own[own["backbone"].eq(backbone)], look, filled=kind == TGEM)
    for kind, look in ((MERGING, MERGES), (FULL, ENCODER)):
        own = part[part["kind"].eq(kind)].drop_duplicates("backbone")
        if len(own):
            axis.plot(
                own["cost"], own["value"], linestyle="none", marker=look.marker, color=look.color, label=look.label,
                markersize=8 if kind == FULL else 5, zorder=6, clip_on=True,
            )  # fmt: skip
    _limits(axis, part, part[part["kind"].eq(TGEM) | (part["kind"].eq(RULE) & part["policy"].isin([rule]))])


def _line(axis: Axes, own: pd.DataFrame, look: Look, filled: bool) -> None:
    own = own.sort_values("rate", kind="stable")
    axis.plot(
        own["cost"], own["value"], color=look.color, linestyle=look.line, marker=look.marker, label=look.label,
        linewidth=1, markersize=4, markerfacecolor=look.color if filled else "white", markeredgewidth=0.8,
        zorder=4 if look.marker else 2,
    )  # fmt: skip


def _limits(axis: Axes, part: pd.DataFrame, early: pd.DataFrame) -> None:
    """Limit the axes to costs and values from those of the cheapest T-GEM or rule on; the table has all."""
    focus = early if len(early) else part
    low, high = focus["value"].min(), part["value"].max()
    room = max(1.0, (high - low) * 0.08)
    axis.set_ylim(max(0, low - room), min(100, high + room))
    shown = pd.concat([focus["cost"], part.loc[part["kind"].eq(FULL), "cost"]])
    left, right = 0.85 * shown.min(), 1.2 * part["cost"].max()
    axis.set_xscale("log")
    axis.set_xlim(left, right)
    axis.set_xticks(ticks := log_ticks(left, right), [f"{tick:g}" for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))


def log_ticks(left: float, right: float) -> list[float]:
    """Return a few round numbers between the ends of a logarithmic axis, evenly spread."""
    decades = range(math.floor(math.log10(left)), math.ceil(math.log10(right)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        inside = [tick for tick in ticks if left <= tick <= right]
        if len(inside) >= 3:
            break
    return inside


def _names(axis: Axes, part: pd.DataFrame) -> None:
    """Write the names of full encoders, and numbers of merged tokens, below their marks."""
    bottom, top = axis.get_ylim()
    lowest = bottom + 0.12 * (top - bottom)  # there is room for a name above this
    whole = part[(100 * part["value"]).ge(lowest)].drop_duplicates("backbone")
    for row in whole.to_dict("records"):
        merges = row["kind"] == MERGING
        name = f"r = {row['token_merging']}" if merges else row["backbone"]
        text = axis.annotate(
            name, (row["cost"], 100 * row["value"]), xytext=(0, -6), textcoords="offset points", ha="center", va="top",
            rotation=0 if merges else 90, zorder=7, color=MERGES.color if merges else "black", annotation_clip=True,
        )  # fmt: skip
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])
