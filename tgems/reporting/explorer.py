"""Make the explorer of operating points: one HTML file that needs no network and no server.

The figure is described with Altair and drawn by Vega, which the file contains; explorer.js fills in the chosen rows.
Names come from a user's configuration and are untrusted: they are in the file as compressed JSON, and reach the page as
text. As a second line of defence, the page's security policy runs its own two scripts, by their digests, and no other.

The file should be small: Chromium, in which a single-file report shows it, opens no embedded page above 1.5 MB.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import altair as alt
import pandas as pd
import vl_convert

from tgems.config.run import ALL_POLICIES
from tgems.outputs import write_text
from tgems.policies.declarations import declared
from tgems.reporting.style import METRIC_NAMES

CHOICES = ("variant", "backbone", "dataset", "metric", "score_normalisation", "calibration")
"""Columns of `tradeoff.csv` of which a reader selects one value, in order; each restricts those that follow."""
NUMBERS = ("rate_target", "exit_block", "rate", "rate_ci_low", "rate_ci_high", "gmacs", "value", "low", "high")
NUMBERS += ("delta_full", "delta_low", "delta_high", "n", "n_sources")
LABELS = {
    "calibration": {
        "in_domain": "the data set's own validation images",
        "transfer": "the training data set",
        "online": "the training data set, moved after every image",
    },
    "score_normalisation": {"querybank": "query bank"},
}
SHAPES = {"o": "circle", "s": "square", "^": "triangle-up", "v": "triangle-down", "<": "triangle-left"}
SHAPES |= {">": "triangle-right", "D": "diamond", "d": "diamond", "P": "cross", "p": "square", "h": "circle"}
STAR = "M0,-1L.24,-.32L.95,-.31L.38,.12L.59,.81L0,.4L-.59,.81L-.38,.12L-.95,-.31L-.24,-.32Z"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours of Okabe and Ito, for policies that declare none."""
BLACK = "#000000"
DASHES = {"-": [1, 0], "--": [6, 3], "-.": [6, 2, 1, 2], ":": [2, 2]}
MAIN = ("full", "fixed", "margin")
"""Policies that are shown at first, with the T-GEMs."""
TOOLTIP = {
    "label": "policy",
    "value": "value",
    "interval": "95 % interval",
    "rate": "rate",
    "rate_interval": "interval of the rate",
    "gmacs": "GMACs per image",
    "threshold": "threshold",
    "rate_target": "rate target",
    "exit_block": "exit block",
    "images": "n",
}
"""Fields of a row that explorer.js computes, and their names in the tooltip."""


def plot_explorer(tradeoff: str | Path, policies: Sequence[str], page: str | Path) -> None:
    """Write the explorer of a run.

    Args:
        tradeoff: The table `tradeoff.csv`.
        policies: Policies of the run, as in the configuration.
        page: HTML file to write.
    """
    rows = points(pd.read_csv(tradeoff, dtype={"seed": str}, low_memory=False))
    write_text(Path(page), explorer(rows, policies))


def points(tradeoff: pd.DataFrame) -> pd.DataFrame:
    """Return the operating points to explore, one row each: means over seeds, and policies that have no seeds.

    Args:
        tradeoff: Rows of `tradeoff.csv`.

    Returns:
        Columns of `CHOICES`, `NUMBERS`, `series` and `threshold`. `series` is the policy, or `shuffled POLICY` for its
        exits shuffled over images. The interval from `low` to `high` is over images, their sources and seeds, or with
        one seed over images and sources; so is that of the difference to the full encoder. `threshold` lists the
        thresholds of all seeds as a text. It is empty if no seed has one threshold that serves all exits.
    """
    keys = [*CHOICES, "policy", "twin_of", "rate_target", "exit_block"]
    single = tradeoff[tradeoff["seed"].ne("mean") & tradeoff["threshold"].notna()]
    listed = single.groupby(keys, dropna=False)["threshold"].agg(lambda found: ", ".join(f"{t:.4g}" for t in found))
    rows = tradeoff[tradeoff["seed"].isna() | tradeoff["seed"].eq("mean")].drop(columns="threshold")
    rows = rows.merge(listed.reset_index(), on=keys, how="left")
    for name, column in (("", ""), ("delta_", "delta_full_")):
        for end in ("low", "high"):
            rows[f"{name}{end}"] = rows[f"{column}method_ci_{end}"].fillna(rows[f"{column}ci_{end}"])
    shuffled = "shuffled " + rows["twin_of"].fillna("")
    rows["series"] = rows["policy"].where(rows["policy"].ne("shuffled"), shuffled)
    return rows[[*CHOICES, "series", *NUMBERS, "threshold"]]


def explorer(rows: pd.DataFrame, policies: Sequence[str] = ALL_POLICIES) -> str:
    """Return the page for some operating points.

    Args:
        rows: What `points` returns.
        policies: Policies of the run, as in the configuration.
    """
    series = _series(policies, set(rows["series"]))
    kept = rows[rows["series"].isin([one["name"] for one in series])]
    top = max(1.0, float(kept["rate"].max()))
    run = {
        "choices": CHOICES,
        "labels": _labels(kept),
        "series": series,
        "columns": {name: _coded(kept[name]) for name in (*CHOICES, "series", "threshold")},
        "numbers": {name: [_number(value) for value in kept[name]] for name in NUMBERS},
        "chart": _chart(series, 1.02 * top),
    }
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    scripts = [_script(bundle), _script(_beside("explorer.js"))]
    page = _beside("explorer.html").replace("DIGESTS", " ".join(map(_digest, scripts)))
    packed = gzip.compress(json.dumps(run, allow_nan=False, separators=(",", ":")).encode(), mtime=0)
    head, between, tail = page.split("SCRIPT")
    return head.replace("DATA", base64.b64encode(packed).decode()) + scripts[0] + between + scripts[1] + tail


def _chart(series: list[dict], top: float) -> dict:
    """Describe the figure, in which explorer.js fills the data `points` and reads the selection `brush`."""
    names = [one["name"] for one in series]

    def scale(key: str) -> alt.Scale:
        return alt.Scale(domain=names, range=[one[key] for one in series])

    x = alt.X("rate:Q", title="rate: multiply-accumulates of the full encoder that are spent")
    x = x.scale(domain=[0, top], nice=False).axis(grid=True)
    y = alt.Y("value:Q", title=None).scale(zero=False)
    base = alt.Chart().encode(color=alt.Color("series:N", scale=scale("color"), legend=None))
    dash = alt.StrokeDash("series:N", scale=scale("dash"), legend=None)
    shape = alt.Shape("series:N", scale=scale("shape"), legend=None)
    brush = alt.selection_interval(name="brush", encodings=["x"])
    full = base.mark_rule(strokeWidth=1).encode(y=y).transform_filter("datum.series == 'full'")
    intervals = base.mark_rule(opacity=0.35).encode(x=x, y=alt.Y("low:Q", title=None), y2="high:Q")
    lines = base.mark_line(strokeWidth=1.5).encode(x=x, y=y, strokeDash=dash)
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=x, y=y, shape=shape, opacity=alt.when(brush).then(alt.value(1)).otherwise(alt.value(0.3)),
        tooltip=[alt.Tooltip(f"shown.{field}:N", title=title) for field, title in TOOLTIP.items()],
    )  # fmt: skip
    layers = alt.layer(full, lines, intervals, dots.add_params(brush), data=alt.NamedData("points"))
    chart = layers.properties(width="container", height=380).configure(font="sans-serif")
    chart = chart.configure_axis(labelFontSize=12, titleFontSize=13, titleFontWeight="normal").to_dict()
    return {key: value for key, value in chart.items() if key != "$schema"}  # which is an address on the web


def _series(policies: Sequence[str], found: set[str]) -> list[dict]:
    """Return how to draw every policy that occurs, and its shuffled exits, whose `of` is the policy."""
    classes = [declared(word) for word in policies if word != "shuffled"]
    drawn = []
    for policy in sorted(classes, key=lambda own: (not own["contender"], own["frozen_head"] or not own["adaptive"])):
        name, marker = policy["name"], policy["marker"]
        own = {"name": name, "of": name, "label": policy["label"] or name, "main": policy["contender"] or name in MAIN}
        own["color"] = policy["color"] or (BLACK if name == "full" else COLORS[sum(name.encode()) % len(COLORS)])
        own["shape"] = STAR if marker == "*" else SHAPES.get(marker, "circle")
        drawn.append(own | {"dash": DASHES.get(policy["line"], DASHES["-"])})
        drawn.append(own | {"name": f"shuffled {name}", "label": f"{own['label']}, shuffled", "dash": DASHES[":"]})
    return [one for one in drawn if one["name"] in found]


def _labels(rows: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Return, by choice, the labels of values that are not shown by their own name."""
    metrics = {}
    for metric in rows["metric"].unique():
        name, _, depth = metric.partition("@")
        known = METRIC_NAMES.get(f"{name}@1" if depth else name)
        metrics[metric] = known.replace("R@1", f"R@{depth}") if known else metric
    return LABELS | {"metric": metrics}


def _coded(column: pd.Series) -> dict[str, list]:
    """Return the distinct values of a column in order of appearance, and the place of each row's value; -1 if empty."""
    codes, values = pd.factorize(column)
    return {"values": [str(value) for value in values], "codes": codes.tolist()}


def _number(value: float) -> float | None:
    return None if pd.isna(value) else float(f"{value:.5g}")


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


def _script(code: str) -> str:
    """Return code as the content of a script element, which must not contain the end tag."""
    return code.replace("</script", "<\\/script")


def _digest(code: str) -> str:
    """Return the source of a Content Security Policy that admits this script alone."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
