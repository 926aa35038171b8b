"""Write the tables of a run (CSV, Markdown, LaTeX) from the files of the evaluations and of the profiler."""

from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd

from tgems.costs.saved_costs import Profile, read_profile
from tgems.errors import UserError
from tgems.evaluation.record import read_evaluation_record
from tgems.evaluation.uncertainty import holm
from tgems.markdown_text import literal
from tgems.outputs import write_text
from tgems.policies.declarations import declared
from tgems.provenance import RUN_AGAIN
from tgems.reporting.calibration import shown_first, transferred


def make_tables(
    parts: dict[str, Sequence[str]], macs: Sequence[str], evaluations: Sequence[str], config: dict, folder: Path
) -> None:
    """Write all tables of a run.

    Args:
        parts: Parquet files by table: `tradeoff`, `wins`, `areas`, `contributions`, `semantic_content`.
        macs: `macs.json` of every backbone and variant, in folders named after them.
        evaluations: `provenance.json` of every evaluation.
        config: Complete configuration. There is a table `ablations` if it has several variants, and a table `precision`
            if the encoder runs in reduced precision.
        folder: Folder to write to.
    """
    tables = {name: pd.concat([pd.read_parquet(p) for p in files], ignore_index=True) for name, files in parts.items()}
    tables["wins"] = decide(tables["wins"], **config["evaluation"])
    profiles = {Path(path).parts[-3:-1]: read_profile(Path(path)) for path in macs}
    tables["flops"] = pd.concat(
        [flops(backbone, variant, profile) for (backbone, variant), profile in profiles.items()], ignore_index=True
    )
    variants = list(config["variants"])
    tables["summary"] = summary(tables["tradeoff"].query("variant == @variants[0]"))
    if len(variants) > 1:
        tables["ablations"] = ablations(tables["tradeoff"], tables["areas"], variants, _contenders(config["policies"]))
    if config["features"]["precision"] != "float32":
        tables["precision"] = precision(evaluations)
    for name, table in tables.items():
        short = table.dropna(axis=1, how="all") if name in ("flops", "summary") else _means(table)
        write_table(folder / name, table, short)


def write_table(path: Path, table: pd.DataFrame, short: pd.DataFrame) -> None:
    """Write a table as CSV, and a shorter version of it for readers as Markdown and LaTeX.

    Args:
        path: File to write, without a suffix.
        table: The whole table.
        short: The version for readers.
    """
    write_text(path.with_suffix(".csv"), table.to_csv(index=False, float_format="%.6g"))
    write_text(path.with_suffix(".md"), markdown(short))
    write_text(path.with_suffix(".tex"), short.to_latex(index=False, float_format="%.3f", na_rep="--", escape=True))


def decide(wins: pd.DataFrame, compared: list[str], margin: float, level: float) -> pd.DataFrame:
    """Decide what each comparison of `tgems.evaluation.wins` shows, by intervals and p values for the method.

    Args:
        wins: Comparisons.
        compared: Data sets that are compared; rows of other data sets are dropped.
        margin: Differences below this margin count as none.
        level: Level of all tests of a family together.

    Returns:
        The comparisons with two more columns. `p_holm` is the p value, corrected within a backbone, variant, T-GEM,
        calibration and `against`. `verdict` is `better` or `worse` if `p_holm` is below `level`, else `equivalent` if
        the method's interval lies within the margin, else `undecided`.
    """
    wins = wins[wins["dataset"].isin(compared)] if len(wins) else wins
    if wins.empty:
        return wins
    family = ["backbone", "variant", "policy", "calibration", "against"]
    wins = wins.assign(p_holm=wins.groupby(family)["p"].transform(lambda p: holm(p.to_numpy())))
    inside = wins["method_ci_low"].gt(-margin) & wins["method_ci_high"].lt(margin)
    verdict = inside.map({True: "equivalent", False: "undecided"})
    real = wins["p_holm"] < level
    verdict = verdict.mask(real & wins["difference"].gt(0), "better").mask(real & wins["difference"].lt(0), "worse")
    return wins.assign(verdict=verdict)


def precision(evaluations: Sequence[str]) -> pd.DataFrame:
    """Tabulate what autocast changes at full depth, on the images that were also encoded in float32."""
    rows = []
    for path in evaluations:
        backbone, _, dataset = Path(path).parts[-4:-1]
        found = read_evaluation_record(Path(path)).precision
        if found is None:
            raise UserError(f"{path}: made without autocast, unlike the configuration; {RUN_AGAIN}")
        about = {"backbone": backbone, "dataset": dataset} | found.model_dump(exclude={"metrics"})
        rows += [about | {"metric": metric} | values.model_dump() for metric, values in found.metrics.items()]
    return pd.DataFrame(rows).drop_duplicates(["backbone", "dataset", "metric"])


def flops(backbone: str, variant: str, profile: Profile) -> pd.DataFrame:
    """Tabulate the cost of every exit of one backbone in GMACs, including the modules of image guidance."""
    costs = profile.costs.costs()
    total = costs.image_guided() * costs.full
    return pd.DataFrame(
        {
            "backbone": backbone,
            "variant": variant,
            "exit_block": costs.blocks,
            "gmacs_encoder": [m / 1e9 for m in costs.encoder],
            "gmacs_exit_modules": (total - costs.encoder) / 1e9,
            "gmacs_total": total / 1e9,
            "gmacs_normalisation": [m / 1e9 for m in profile.normalisation],
            "rate": total / costs.full,
            "gmacs_closed_form": [m / 1e9 for m in profile.closed_form or [nan] * len(costs.blocks)],
            "parameters_m": [p / 1e6 for p in profile.parameters],
        }
    )


def summary(points: pd.DataFrame) -> pd.DataFrame:
    """Make the paper-style table: per backbone, policy and target, mean cost and each data set's headline metrics.

    Values are means over seeds, if there are any; columns that end in ` std` hold the standard deviation over seeds.
    Rates and GMACs are means over data sets of the values realised on test. Data sets that have only transferred
    thresholds are marked.
    """
    shown = shown_first(points)
    shown = shown[~shown["policy"].isin(["fixed", "fixed_raw"])]
    wanted = shown["metric"].eq("acc1") | shown["metric"].str.contains("recall@")
    shown = shown[wanted].copy()
    mark = shown["dataset"].isin(transferred(points)).map({True: " (transfer)", False: ""})
    shown["column"] = shown["dataset"] + mark + " " + shown["metric"]
    shown["policy"] = shown["policy"].where(
        shown["policy"] != "shuffled", shown["policy"] + " " + shown["twin_of"].fillna("")
    )
    keys = ["backbone", "policy", "rate_target"]
    means = shown[shown["seed"].eq("mean") | shown["seed"].isna()]
    values = means.groupby([*keys, "column"], dropna=False)["value"].mean().unstack("column")
    seeds = shown[shown["seed"].notna() & shown["seed"].ne("mean")]
    spread = seeds.groupby([*keys, "column"], dropna=False)["value"].std().unstack("column")
    columns = sorted(values.columns, key=lambda name: (name.split("@")[0], int(name.partition("@")[2] or 0)))
    costs = means.drop_duplicates([*keys, "dataset"]).groupby(keys, dropna=False)[["rate", "gmacs"]].mean()
    costs["saving"] = 1 - costs["rate"]
    frame = costs.join(values[columns]).join(spread.reindex(columns=columns).add_suffix(" std"))
    return frame.dropna(axis=1, how="all").reset_index()


def ablations(points: pd.DataFrame, areas: pd.DataFrame, variants: list[str], contenders: list[str]) -> pd.DataFrame:
    """Compare every variant with the first: headline metrics at each rate target, and areas under the curve.

    Policies are the contenders (T-GEMs), `margin` and `hull`. Differences from the first variant are between means over
    seeds. `rate_target` is empty if the value is an area.
    """
    keys = ["backbone", "variant", "dataset", "metric", "policy", "rate_target"]
    points, areas = shown_first(points), shown_first(areas)
    shown = points["policy"].isin([*contenders, "margin", "hull"]) & points["calibration"].notna()
    headline = points["metric"].isin(areas["metric"]) & points["seed"].eq("mean")
    at_rates = points[shown & headline][[*keys, "rate", "value", "value_std"]]
    under = areas[areas["policy"].isin(at_rates["policy"]) & areas["calibration"].notna()]
    under = under.rename(columns={"area": "value"}).assign(rate_target=float("nan"))
    table = pd.concat([at_rates, under[[*keys, "value", "area_validation"]]], ignore_index=True)
    same = [k for k in keys if k != "variant"]
    first = table[table["variant"] == variants[0]][[*same, "value"]].rename(columns={"value": "first"})
    table = table.merge(first, on=same, how="left")
    table["difference"] = table["value"] - table.pop("first")
    return table


def _contenders(policies: Sequence[str]) -> list[str]:
    """Return the names of the T-GEMs among the policies of a configuration."""
    found = [declared(word) for word in policies if word != "shuffled"]
    return [own["name"] for own in found if own["contender"]]


def _means(table: pd.DataFrame) -> pd.DataFrame:
    """Shorten a table for readers: drop the rows of single seeds and the columns that are empty."""
    if "seed" in table:
        table = table[table["seed"].isna() | table["seed"].eq("mean")]
    return table.dropna(axis=1, how="all")


def markdown(table: pd.DataFrame) -> str:
    """Format a table in GitHub-flavoured Markdown."""

    def cell(value: Any) -> str:
        if pd.isna(value):
            return ""
        return f"{value:.4g}" if isinstance(value, float) else literal(value)

    lines = ["| " + " | ".join(map(literal, table.columns)) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(cell(v) for v in row) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines) + "\n"
