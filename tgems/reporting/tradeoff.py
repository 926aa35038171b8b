"""Plot the main result: quality over rate of T-GEMs and their competitors, and the difference to fixed exits."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tgems.reporting.calibration import shown_first, transferred
from tgems.reporting.curves import MeanCurve, mean_curve, over_seeds, reference, reference_curve, strongest
from tgems.reporting.panels import by_length, leftmost, legend_below, panel_slots, panels, title
from tgems.reporting.style import GREY, METRIC_NAMES, Look, Looks, short

RIVAL = Look("best other policy (named)", "#000000", "^")
SHUFFLED = ", shuffled"
PAPER = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
REFERENCES = {"hull": "hull", "fixed": "fixed", "full": "full"}


def tradeoff(frames: dict[str, pd.DataFrame], looks: Looks) -> Figure:
    """Plot quality over realised rate, and below it the difference to the hull of fixed exits with its interval.

    Lines are the full encoder, the hull, the T-GEMs and their own exits shuffled, and the other adaptive policy that
    is best on validation, which is named in the panel, and policies of the user's own.
    """
    points, foreign = over_seeds(shown_first(frames["tradeoff"])), transferred(frames["tradeoff"])
    areas, wins = shown_first(frames["areas"]), frames["wins"]
    wins = shown_first(wins) if len(wins) else wins
    blocks = [[(b, *panel) for panel in panels(points)] for b in by_length(points["backbone"])]
    figure, slots = panel_slots(blocks, 2.45)
    axes = []
    for (backbone, dataset, metric), slot in slots.items():
        same = "backbone == @backbone and dataset == @dataset and metric == @metric"
        part, contest = points.query(same), wins.query(same) if len(wins) else wins
        grid = slot.subgridspec(2, 1, height_ratios=(1.7, 1), hspace=0.04)
        over = figure.add_subplot(grid[0])
        under = figure.add_subplot(grid[1], sharex=over)
        over.tick_params(labelbottom=False)
        rival, targets = strongest(areas.query(same), looks), sorted(part["rate_target"].dropna().unique())
        full = 100 * part.loc[part["policy"] == "full", "value"].iloc[0]
        lowest = _lowest(part, looks)
        lines, base = _lines(part, looks, rival, lowest), reference_curve(part, full)
        over.axhline(full, color="black", linewidth=0.8, label="full encoder")
        if reference(part) != "full":
            label = looks[reference(part)].label
            over.plot(base.rates, base.values, color=GREY, linestyle="--", linewidth=1, label=label, zorder=1)
        heights = [full, *base.above(lowest).values]
        _curves_panel(over, lines, heights, looks[rival].label.strip() if rival else "")
        _difference_panel(under, lines, base, _intervals(contest, reference(part)))
        under.set_xticks(targets, [short(target) for target in targets])
        under.set_xlim(lowest, 1)
        mark = ", transferred" if dataset in foreign else ""
        title(over, f"{backbone}: {dataset}{mark}", METRIC_NAMES[metric])
        if leftmost(over):
            over.set_ylabel("right (%)")
            under.set_ylabel(f"minus {REFERENCES[reference(part)]}\n(points)")
        axes += [over, under]
    legend_below(figure, axes, "rate: share of the full encoder's multiply-accumulates that is spent")
    return figure


def _lowest(part: pd.DataFrame, looks: Looks) -> float:
    """Return the lowest rate to show: below all rate targets, and below all points of T-GEMs."""
    own = part.loc[part["policy"].isin(looks.contenders(part["policy"])), "rate"]
    return min([*part["rate_target"].dropna(), *own], default=0.3) - 0.06


def _lines(part: pd.DataFrame, looks: Looks, rival: str | None, lowest: float) -> dict[str, tuple[Look, MeanCurve]]:
    """Return the lines to draw beside the references, by name, from the lowest rate to show."""
    found = {"rival": (RIVAL, mean_curve(part, rival))} if rival else {}
    for policy in looks.contenders(part["policy"]):
        twin = looks[policy]._replace(label=looks[policy].label + SHUFFLED, line=":")
        found[policy] = looks[policy], mean_curve(part, policy)
        found[f"shuffled {policy}"] = twin, mean_curve(part, "shuffled", policy)
    written = [p for p in looks.among(part["policy"]) if looks[p].own and not looks[p].contender]
    found |= {policy: (looks[policy], mean_curve(part, policy)) for policy in written}
    shown = {name: (look, curve.above(lowest)) for name, (look, curve) in found.items()}
    return {name: line for name, line in shown.items() if len(line[1].rates)}


def _draw(axis: Axes, name: str, look: Look, rates: np.ndarray, values: np.ndarray) -> None:
    """Draw one line: T-GEMs are thick with filled markers, their shuffled twins and the rival thin with open ones."""
    wide = look.contender and not name.startswith("shuffled")
    axis.plot(
        rates, values, color=look.color, linestyle=look.line or "none", marker=look.marker, label=look.label,
        linewidth=2 if wide else 1, markersize=4.5 if wide else 3.5,
        markerfacecolor=look.color if wide else "white", markeredgewidth=0.8, clip_on=False,
        zorder=4 if name == "rival" else 3 if wide else 2,
    )  # fmt: skip


def _curves_panel(axis: Axes, lines: dict[str, tuple[Look, MeanCurve]], heights: list[float], rival: str) -> None:
    """Draw the lines, with a vertical axis that covers them and the heights of the references."""
    for name, (look, curve) in lines.items():
        _draw(axis, name, look, curve.rates, curve.values)
    shown = np.concatenate([heights, *(curve.values for _, curve in lines.values())])
    low, high = shown.min(), shown.max()
    room = max(1.0, (high - low) * 0.08)
    axis.set_ylim(max(0, low - 1.6 * room), min(100, high + room))
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    if rival:
        name = f"\N{WHITE UP-POINTING TRIANGLE} {rival}"
        axis.text(0.97, 0.04, name, transform=axis.transAxes, ha="right", va="bottom", bbox=PAPER)


def _difference_panel(
    axis: Axes, lines: dict[str, tuple[Look, MeanCurve]], base: MeanCurve, intervals: pd.DataFrame
) -> None:
    axis.axhline(0, color=GREY, linewidth=1, linestyle="--")
    for name, (look, curve) in lines.items():
        own = intervals[intervals["policy"] == name]
        if own.empty:
            _draw(axis, name, look, curve.rates, curve.values - base.at(curve.rates))
            continue
        x, y, low, high = (own[c].to_numpy() for c in ("rate", "difference", "low", "high"))
        _draw(axis, name, look, x, y)
        if len(own) > 1:
            axis.fill_between(x, low, high, color=look.color, alpha=0.18, linewidth=0)
        else:
            axis.errorbar(x, y, yerr=(y - low, high - y), color=look.color, linewidth=1, capsize=2)
    axis.margins(y=0.12)
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))


def _intervals(contest: pd.DataFrame, base: str) -> pd.DataFrame:
    """Return each T-GEM's difference to the reference in points, with the method's interval or else the modules'."""
    if contest.empty:
        return pd.DataFrame(columns=["policy"])
    own = contest[contest["competitor"] == base].drop_duplicates(["policy", "rate_target"]).sort_values("rate")
    ends = {end: 100 * own[f"method_ci_{end}"].fillna(own[f"ci_{end}"]) for end in ("low", "high")}
    return own[["policy", "rate"]].assign(difference=100 * own["difference"], **ends)
