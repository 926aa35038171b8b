"""Print the numbers that README.md and docs/method.md state, from the tables of a run.

python -m tgems.reporting.claims [results/tables]
"""

import sys
from pathlib import Path

import pandas as pd

from tgems.failures import one_line_errors
from tgems.provenance import read_provenance
from tgems.reporting.calibration import fitted
from tgems.reporting.contributions import STEPS
from tgems.reporting.panels import by_length, panels
from tgems.reporting.style import METRIC_NAMES
from tgems.reporting.tables import markdown
from tgems.untrusted import read_table

KEYS = ["backbone", "dataset", "policy", "rate_target", "seed"]
RATES = (0.45, 0.6, 0.75)
NEEDED = ("contributions", "wins", "tradeoff", "semantic_content", "areas", "drift")
VERDICTS = ("better", "worse", "equivalent", "undecided")


def claims(folder: Path) -> str:
    """Return all stated numbers as Markdown tables.

    Args:
        folder: Folder of the tables of a finished run.

    Raises:
        UserError: A table is missing.
    """
    tables = {name: _read(folder, name) for name in NEEDED}
    compared = read_provenance(folder / "provenance.json")["config"]["evaluation"]["compared"]
    tables["contributions"] = tables["contributions"][tables["contributions"]["dataset"].isin(compared)]
    parts = [(f"What each part adds: {b}", contributions_table(own)) for b, own in _each(tables["contributions"])]
    parts.append(("Gains of each part over the one below it, in points", markdown(gains(tables["contributions"]))))
    parts.append(("Verdicts on the T-GEMs", markdown(verdicts(tables["wins"]))))
    parts.append(("Realised rate minus target, means and largest deviation", markdown(rates(tables["tradeoff"]))))
    parts.append(("Streams: distance to the target after 500 images, and accuracy", markdown(streams(tables["drift"]))))
    half = half_way(tables["semantic_content"])
    parts.append(("Half-way: trained heads against the frozen projection", markdown(half)))
    parts.append(("Areas without and with normalised scores, in points", markdown(normalised(tables["areas"]))))
    if (folder / "ablations.csv").is_file():
        parts.append(("Ablations: areas on validation, in points", markdown(ablations(_read(folder, "ablations")))))
    return "\n".join(f"## {title}\n\n{text}" for title, text in parts)


def contributions_table(table: pd.DataFrame) -> str:
    """Tabulate the value of every step at equal rates, for one backbone: a row per step, three columns per task."""
    own = table[table["step"].isin(STEPS) & table["rate"].round(6).isin(RATES)]
    keys = panels(own)
    lines = ["| | " + " | ".join(f"{dataset}: {METRIC_NAMES[metric]} | |" for dataset, metric in keys) + " |"]
    lines += ["|---" * (1 + 3 * len(keys)) + "|"]
    lines += ["| rate |" + "|".join(f" {rate:.2f} ".replace(" 0.", " .") for _ in keys for rate in RATES) + "|"]
    for step, label in STEPS.items():
        cells = [
            own.query("dataset == @d and metric == @m and step == @step and abs(rate - @r) < 1e-6", local_dict=here)
            for d, m in keys
            for r in RATES
            for here in ({"d": d, "m": m, "r": r, "step": step},)
        ]
        shown = [_short(cell["value"].iloc[0]) if len(cell) else "" for cell in cells]
        lines.append(f"| {label} | " + " | ".join(shown) + " |")
    full = table[table["step"] == "full"].set_index(["dataset", "metric"])["value"]
    lines.append("| full encoder | " + " | ".join(f"{_short(full[key])} | | " for key in keys).rstrip() + " |")
    return "\n".join(lines) + "\n"


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """Tabulate each step's smallest and largest gain over rates, and count the intervals that exclude zero."""
    own = table.dropna(subset=["over"])
    above, below = own["gain_method_ci_low"].gt(0), own["gain_method_ci_high"].lt(0)
    keys = ["backbone", "dataset", "metric", "step", "over"]
    frame = own.assign(above=above, below=below, points=100 * own["gain"]).groupby(keys, sort=False)
    return frame.agg(
        rates=("rate", "size"), least=("points", "min"), most=("points", "max"), clear_gain=("above", "sum"),
        clear_loss=("below", "sum"),
    ).reset_index()  # fmt: skip


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Count the verdicts over rates, and give the range of differences, under a data set's own thresholds."""
    own = table[table["calibration"] == "in_domain"]
    keys = ["backbone", "policy", "against", "dataset", "direction"]
    counted = own.groupby([*keys, "verdict"], sort=False).size().unstack("verdict", fill_value=0)
    points = own.assign(points=100 * own["difference"]).groupby(keys, sort=False)["points"]
    frame = counted.reindex(columns=VERDICTS, fill_value=0)
    return frame.assign(least=points.min(), most=points.max()).reset_index()


def rates(table: pd.DataFrame) -> pd.DataFrame:
    """Measure how far realised rates are from their targets, for single seeds of fitted policies."""
    own = fitted(table)
    own = own.assign(excess=own["rate"] - own["rate_target"])
    grouped = own.groupby(["calibration", "backbone", "dataset"])["excess"]
    return grouped.agg(mean="mean", largest=lambda e: e.abs().max()).reset_index()


def streams(table: pd.DataFrame, seen: int = 500) -> pd.DataFrame:
    """Measure how far streams are from their targets after some images, or all if there are fewer; single seeds.

    Accuracy is in points against thresholds of the data set's own validation images: the mean over policies, targets
    and metrics, and the lowest mean over seeds, with trained heads and with the frozen projection. Policy `patience`
    is left out, since it cannot meet most targets.
    """
    own = table[table["policy"].ne("patience")]
    own = own.assign(head=own["policy"].str.endswith("_raw").map({True: "raw", False: "trained"}))
    keys = ["calibration", "head", "backbone", "dataset"]
    costs = own[own["seed"].isna() | own["seed"].eq("mean")].groupby(keys)["delta_in_domain"]
    single = own[own["seed"].ne("mean") & own["images"].le(seen)].drop_duplicates([*KEYS, "calibration", "images"])
    last = single[single["images"].eq(single.groupby("dataset")["images"].transform("max"))]
    off = last.assign(off=last["excess"].abs()).groupby(keys)["off"]
    found = off.agg(mean="mean", largest="max", within=lambda e: e.le(0.01).mean())
    return found.assign(points=100 * costs.mean(), lowest=100 * costs.min()).reset_index()


def half_way(table: pd.DataFrame) -> pd.DataFrame:
    """Tabulate accuracy and recall after half of the blocks, with trained heads and with the frozen projection."""
    depth = table.groupby("backbone")["exit_block"].transform("max")
    own = table[table["attribute"].eq("all") & table["exit_block"].eq(depth // 2)]
    keys = ["backbone", "dataset", "metric", "exit_block"]
    return own.pivot_table(index=keys, columns="head", values="value").reset_index()


def normalised(table: pd.DataFrame) -> pd.DataFrame:
    """Tabulate areas of text-to-image curves, means over seeds."""
    own = table.query("direction == 'text_to_image' and policy != 'shuffled' and calibration != 'transfer'")
    own = own.assign(area=100 * own["area"])
    keys = ["backbone", "dataset", "policy"]
    return own.pivot_table(index=keys, columns="score_normalisation", values="area").reset_index()


def ablations(table: pd.DataFrame) -> pd.DataFrame:
    """Tabulate areas on validation: a row per variant, a column per policy and metric."""
    own = table[table["rate_target"].isna() & table["metric"].isin(METRIC_NAMES)]
    own = own.assign(column=own["policy"] + ", " + own["metric"].map(METRIC_NAMES), area=100 * own["area_validation"])
    frame = own.pivot_table(index=["backbone", "variant"], columns="column", values="area", sort=False)
    return frame.reset_index()


def _each(table: pd.DataFrame):
    return [(name, table[table["backbone"] == name]) for name in by_length(table["backbone"])]


def _read(folder: Path, name: str) -> pd.DataFrame:
    way_out = "give the folder of tables of a finished run"
    table = read_table(folder / f"{name}.csv", (), way_out, dtype={"seed": str}, low_memory=False)
    if name == "ablations" or "variant" not in table:
        return table
    return table[table["variant"] == table["variant"].iloc[0]]


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


if __name__ == "__main__":
    with one_line_errors():
        print(claims(Path(sys.argv[1] if len(sys.argv) > 1 else "results/tables")))
