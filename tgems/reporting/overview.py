"""Write the overview of a run, with which its report opens, and the table `summary` as a page.

Both are HTML files that need no network and contain no scripts. Names come from a user's configuration and are escaped.
"""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import pandas as pd
import yaml

from tgems.errors import printable
from tgems.outputs import write_text
from tgems.policies.declarations import declared
from tgems.reporting.contributions import STEPS
from tgems.reporting.panels import by_length, panels
from tgems.reporting.style import METRIC_NAMES

MORE = "<!-- more -->"
"""Marker in the overview between the result and its details, where the report inserts what to look at."""
GATES = ("bank_gates", "image_gates")
"""Steps that are T-GEMs; the first that has values for a task is the headline."""
BESIDE = {
    "heads_confidence": STEPS["heads_confidence"],
    "heads_fixed": STEPS["heads_fixed"],
    "full": "full encoder",
}
VERDICTS = ("better", "equivalent", "undecided", "worse")
AGAINST = {
    "best": "the best other policy on validation images",
    "hull": "mixes of fixed exits",
    "shuffled": "the same exits shuffled over images",
}
EQUAL = (
    "<p>Values on test images at rates of the full encoder's multiply-accumulates, as means over seeds: from the "
    "frozen projection, through trained heads, to T-GEMs. Rules are picked on validation images.</p>"
)
JUDGED = (
    "<p>Numbers of comparisons at equal rate, under a data set's own thresholds. Verdicts rest on intervals over "
    "images, their sources and seeds, and are corrected for the number of comparisons.</p>"
)
STYLE = """
.overview { font: 14px/1.45 sans-serif; color: #222; max-width: 72rem; }
.overview h1 { font-size: 1.5rem; font-weight: bold; margin: 0 0 .3rem; }
.overview h2 { font-size: 1.1rem; font-weight: bold; margin: 1.2rem 0 .3rem; }
.overview p { margin: .3rem 0; max-width: 52rem; }
.overview img { max-width: 100%; height: auto; }
.overview ul.numbers { display: flex; flex-wrap: wrap; gap: .8rem; list-style: none; padding: 0; margin: .8rem 0; }
.overview ul.numbers li { border: 1px solid #ccc; border-radius: .4rem; padding: .5rem .9rem; }
.overview .number { display: block; font-size: 1.6rem; font-weight: bold; }
.overview .scroll { overflow: auto; max-height: 85vh; }
.overview table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
.overview th, .overview td { padding: .15rem .6rem; border-bottom: 1px solid #ddd; white-space: nowrap; }
.overview th { text-align: left; font-weight: normal; }
.overview thead { position: sticky; top: 0; background: #fff; }
.overview thead th { font-weight: bold; }
.overview th.n { text-align: right; }
.overview td { text-align: right; }
.overview a { color: #0b62a4; text-decoration: underline; }
.overview ul { list-style: disc; padding-left: 1.2rem; margin: .3rem 0; }
.overview summary { cursor: pointer; margin-top: .8rem; font-weight: bold; }
.overview pre { font-size: .8rem; background: #f6f6f6; padding: .6rem; overflow: auto; }
"""


def write_overview(tables: Path, figure: Path, config: dict, overview: Path, summary: Path) -> None:
    """Write the overview, and the table `summary` as a page.

    Args:
        tables: Folder of the tables.
        figure: The figure `tradeoff` as PNG.
        config: The recorded part of the configuration.
        overview: HTML file to write: headline numbers, the figure and, after `MORE`, tables and the configuration.
        summary: HTML file to write.
    """
    variant, compared = next(iter(config["variants"])), config["evaluation"]["compared"]
    contributions, wins = (
        _compared(_read(tables / f"{name}.csv"), variant, compared) for name in ("contributions", "wins")
    )
    write_text(Path(overview), overview_page(contributions, wins, Path(figure).read_bytes(), config))
    table = _read(tables / "summary.csv")
    write_text(Path(summary), _page("Summary", f"<h1>Summary</h1>{_table(table.columns, _cells(table), 2)}"))


def overview_page(contributions: pd.DataFrame, wins: pd.DataFrame, figure: bytes, config: dict) -> str:
    """Return the overview as HTML.

    Args:
        contributions: Rows of `contributions.csv` to state; may be empty.
        wins: Rows of `wins.csv` to state; may be empty.
        figure: The figure `tradeoff` as PNG.
        config: The recorded part of the configuration.
    """
    encoded = base64.encodebytes(figure).decode()  # in short lines, since docutils refuses long ones
    image = f'<img alt="Quality over computation" src="data:image/png;base64,{encoded}">'
    parts = ["<h1>T-GEMs: quality against computation</h1>", *_headline(contributions), image, MORE]
    names = list(reversed(by_length(contributions["backbone"]))) if len(contributions) else []
    for backbone in names:
        own = contributions[contributions["backbone"] == backbone]
        parts += [f"<h2>Quality at equal computation: {_text(backbone)}</h2>", EQUAL, equal_rates(own)]
    wins = wins[wins["calibration"].eq("in_domain")] if len(wins) else wins
    if len(wins):
        classes = [declared(word) for word in config["policies"] if word != "shuffled"]
        labels = {own["name"]: own["label"] or own["name"] for own in classes}
        parts += ["<h2>Verdicts on the T-GEMs</h2>", JUDGED, verdicts(wins, labels)]
    written = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    parts.append(f"<details><summary>Configuration</summary><pre>{escape(written)}</pre></details>")
    return _page("Overview", "\n".join(parts))


def equal_rates(table: pd.DataFrame) -> str:
    """Return an HTML table of the value of each step at up to three rates, for one backbone.

    Args:
        table: Rows of `contributions.csv` of one backbone.
    """
    keys, rates = panels(table), shown_rates(table)
    value = table.set_index(["dataset", "metric", "step", "rate"])["value"].to_dict()
    full = table[table["step"].eq("full")].groupby(["dataset", "metric"])["value"].first()
    groups = [("", 1), *((f"{dataset}: {METRIC_NAMES[metric]}", len(rates)) for dataset, metric in keys)]
    heads = ["rate", *(f"{rate:g}" for _ in keys for rate in rates)]
    lines = []
    for step in [step for step in STEPS if step in set(table["step"])]:
        lines.append([STEPS[step], *(_short(value.get((*key, step, rate))) for key in keys for rate in rates)])
    lines.append(["full encoder", *(_short(full.get(key)) for key in keys for _ in rates)])
    return _table(heads, lines, 1, groups)


def shown_rates(table: pd.DataFrame) -> list[float]:
    """Return up to three rates of the steps: the lowest, the middle one and the highest."""
    rates = sorted(set(table.loc[table["step"].isin(STEPS), "rate"].dropna().tolist()))
    return sorted({rates[0], rates[len(rates) // 2], rates[-1]}) if rates else []


def verdicts(wins: pd.DataFrame, labels: dict[str, str]) -> str:
    """Return an HTML table that counts the verdicts on each T-GEM.

    Args:
        wins: Rows of `wins.csv`.
        labels: Labels of policies, by name.
    """
    counts = wins.groupby(["backbone", "policy", "against", "verdict"], sort=False).size().unstack(fill_value=0)
    counts = counts.reindex(columns=list(VERDICTS), fill_value=0).reset_index()
    counts["policy"] = counts["policy"].map(labels)
    counts["against"] = counts["against"].map(AGAINST)
    return _table(["backbone", "T-GEM", "against", *VERDICTS], _cells(counts), 3)


def _headline(table: pd.DataFrame) -> list[str]:
    """Return the headline numbers: T-GEMs of the deepest backbone at the middle rate, beside their comparisons."""
    if table.empty or not table["step"].isin(GATES).any():
        return []
    backbone = by_length(table["backbone"])[-1]
    own = table[table["backbone"] == backbone]
    rates = shown_rates(own)
    rate = rates[len(rates) // 2]
    cards = []
    for dataset, metric in panels(own):
        part = own[own["dataset"].eq(dataset) & own["metric"].eq(metric)]
        rows = part[part["rate"].eq(rate) | part["step"].eq("full")].drop_duplicates("step").set_index("step")
        step = next((gates for gates in GATES if gates in rows.index), None)
        if step is None:
            continue
        value = rows["value"]
        low, high = (rows[f"method_ci_{end}"].fillna(rows[f"ci_{end}"])[step] for end in ("low", "high"))
        beside = [f"{name} {_short(value[other])}" for other, name in BESIDE.items() if other in rows.index]
        interval = f"{STEPS[step]}, 95 % interval {_short(low)} to {_short(high)}"
        cards.append(
            f'<li>{_text(dataset)}: {METRIC_NAMES[metric]}<span class="number">{_short(value[step])}</span>'
            f"{'<br>'.join([interval, *beside])}</li>"
        )
    said = f"<p>{_text(backbone)} at {rate:.0%} of the full encoder's computation, on test images:</p>"
    return [said, f'<ul class="numbers">{"".join(cards)}</ul>']


def _compared(table: pd.DataFrame, variant: str, compared: Sequence[str]) -> pd.DataFrame:
    """Return the rows of one variant and of the data sets that are compared; a table without columns stays empty."""
    return table if table.empty else table[table["variant"].eq(variant) & table["dataset"].isin(compared)]


def _read(path: Path) -> pd.DataFrame:
    """Read a table of the run; one without comparisons has no columns either."""
    try:
        return pd.read_csv(path)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()


def _cells(table: pd.DataFrame) -> list[list[str]]:
    return [["" if pd.isna(c) else f"{c:.4g}" if isinstance(c, float) else str(c) for c in r] for r in table.to_numpy()]


def _table(
    heads: Iterable[str], lines: Iterable[Sequence[str]], names: int, groups: Iterable[tuple[str, int]] = ()
) -> str:
    """Return a table of texts, whose first columns hold names, below headings of groups of columns."""
    above = "".join(f'<th colspan="{width}">{_text(text)}</th>' for text, width in groups)
    head = "".join(f"<th{' class=n' * (at >= names)}>{_text(text)}</th>" for at, text in enumerate(heads))
    rows = []
    for line in lines:
        cells = [f'<th scope="row">{_text(text)}</th>' for text in line[:names]]
        rows.append("".join(["<tr>", *cells, *(f"<td>{_text(text)}</td>" for text in line[names:]), "</tr>"]))
    above = f"<tr>{above}</tr>" if above else ""
    body = "\n".join(rows)
    table = f"<table><thead>{above}<tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _page(title: str, body: str) -> str:
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<div class="overview not-prose">\n{body}\n</div>\n</body>\n</html>\n'
    )


def _text(text: str) -> str:
    return escape(printable(text))


def _short(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.3f}"
