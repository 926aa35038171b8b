"""Write the tables `pareto` and `budgets`, which compare early exit with its alternatives at the same cost."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from tgems.evaluation.outcomes import SETTING, PairedOutcomes
from tgems.evaluation.pareto import best_of_each_kind, budgets, kind_of, non_dominated, verdict
from tgems.evaluation.wins import difference
from tgems.policies.declarations import declared
from tgems.reporting.calibration import shown_first
from tgems.reporting.curves import over_seeds
from tgems.reporting.style import METRIC_NAMES
from tgems.reporting.tables import write_table

NAMES = ["dataset", "metric", "backbone", "token_merging", "variant", "policy", "kind", "rate_target", "exit_block"]
INTERVALS = ["ci_low", "ci_high", "method_ci_low", "method_ci_high"]
COSTS = ["cost_kind", "batch_size"]
PARETO = [
    *(*NAMES, "calibration", *COSTS, "cost", "cost_ci_low", "cost_ci_high", "value", *INTERVALS),
    *("rate", "cost_validation", "value_validation", "non_dominated"),
]
CHOSEN = ["kind", "backbone", "variant", "policy", "rate_target", "exit_block", "cost", "value", *INTERVALS]
BUDGETS = [
    *("dataset", "metric", *COSTS, "budget", "budget_of", "place", "picked_on", *CHOSEN),
    *("difference", *(f"difference_{end}" for end in INTERVALS), "verdict"),
]


def write_pareto(
    evaluations: Sequence[str], settings: Sequence[str], latency: Sequence[str], config: Mapping, folder: Path
) -> pd.DataFrame:
    """Write both tables, and return the table `pareto`.

    Args:
        evaluations: `outcomes.parquet` of every evaluation, with its other files beside it.
        settings: `validation_settings.parquet` of every backbone, variant and data set with validation images.
        latency: `latency.csv` of every backbone; none if speed is not measured.
        config: Complete configuration.
        folder: Folder to write to.
    """
    folders = {tuple(Path(path).parts[-4:-1]): Path(path).parent for path in evaluations}
    points = pd.concat([pd.read_parquet(own / "tradeoff.parquet") for own in folders.values()], ignore_index=True)
    validation = pd.concat(
        [pd.DataFrame(), *(pd.read_parquet(path).assign(**_names(Path(path))) for path in settings)], ignore_index=True
    )
    speeds = pd.concat([pd.DataFrame(), *(pd.read_csv(path) for path in latency)], ignore_index=True)
    table = pareto(points, validation, speeds, config)
    paired: dict[str, dict[tuple[str, str], Path]] = {}
    for (backbone, variant, dataset), own in folders.items():
        paired.setdefault(dataset, {})[backbone, variant] = own
    found = within_budgets(table, paired)
    write_table(folder / "pareto", table, table[table["non_dominated"]].dropna(axis=1, how="all"))
    write_table(folder / "budgets", found, found.dropna(axis=1, how="all"))
    return table


def pareto(points: pd.DataFrame, validation: pd.DataFrame, speeds: pd.DataFrame, config: Mapping) -> pd.DataFrame:
    """Tabulate every setting over its cost in GMACs, and over measured milliseconds per image where there are any.

    Args:
        points: Rows of the table `tradeoff`.
        validation: Mean outcomes on validation images (`tgems.evaluation.outcomes.mean_outcomes`).
        speeds: Rows of the table `latency`; may be empty.
        config: Complete configuration.
    """
    classes = {own["name"]: own for own in map(declared, (word for word in config["policies"] if word != "shuffled"))}
    classes = {name: own for name, own in classes.items() if own["runs"] or name == "full"}
    rows = over_seeds(shown_first(points))
    rows = rows[rows["policy"].isin(classes) & rows["metric"].isin(METRIC_NAMES)].drop(columns="rate_validation")
    merging = {name: entry["token_merging"] for name, entry in config["backbones"].items()}
    rows = rows.assign(token_merging=rows["backbone"].map(merging))
    rows["kind"] = [kind_of(classes[p], bool(r)) for p, r in zip(rows["policy"], rows["token_merging"], strict=True)]
    keys = ["backbone", "variant", "dataset", "metric", *SETTING]
    if len(validation):
        renamed = {"rate": "rate_validation", "value": "value_validation"}
        rows = rows.merge(validation[[*keys, "rate", "value"]].rename(columns=renamed), on=keys, how="left")
    rows = rows.reindex(columns=[*rows.columns, *({"rate_validation", "value_validation"} - set(rows.columns))])
    full = rows["gmacs"] / rows["rate"]
    shares = {"cost": "rate", "cost_validation": "rate_validation"}
    shares |= {f"cost_ci_{end}": f"rate_ci_{end}" for end in ("low", "high")}
    frames = [rows.assign(cost_kind="gmacs", **{cost: rows[rate] * full for cost, rate in shares.items()})]
    if len(speeds):
        frames.append(in_milliseconds(rows, speeds, next(iter(config["variants"]))))
    table = pd.concat(frames, ignore_index=True).reindex(columns=PARETO).astype({"batch_size": "Int64"})
    table = table.astype({"exit_block": "Int64", "token_merging": "Int64"})
    table["non_dominated"] = False
    for _, own in table.groupby(["dataset", "metric", *COSTS], dropna=False):
        table.loc[own.index, "non_dominated"] = non_dominated(own["cost"], own["value"])
    return table.sort_values(["dataset", "metric", *COSTS, "cost"], kind="stable", ignore_index=True)


def in_milliseconds(rows: pd.DataFrame, speeds: pd.DataFrame, variant: str) -> pd.DataFrame:
    """Return the rows whose speed was measured, once per batch size, with milliseconds per image as cost.

    The full encoder is represented by the faster of the two ways to run it; a fixed exit takes the same time on all
    data sets. A data set on which no early exit was measured has no rows.

    Args:
        rows: Settings.
        speeds: Rows of the table `latency`.
        variant: Variant whose exits were measured.
    """
    costs = {"ms_per_image": "cost", "ms_per_image_ci_low": "cost_ci_low", "ms_per_image_ci_high": "cost_ci_high"}
    speeds = speeds.rename(columns=costs)
    full = speeds[speeds["encoder"].str.startswith("full")].sort_values("cost", kind="stable")
    full = full.drop_duplicates(["backbone", "batch_size"]).assign(policy="full", dataset=None, exit_block=None)
    speeds = pd.concat([full, speeds[speeds["policy"].notna() & speeds["encoder"].eq("early exit")]])
    anywhere = speeds["dataset"].isna()
    datasets = pd.DataFrame({"dataset": rows["dataset"].unique()})
    everywhere = speeds[anywhere].drop(columns="dataset").merge(datasets, how="cross")
    speeds = pd.concat([everywhere, speeds[~anywhere]]).astype({"exit_block": float})
    keys = ["backbone", "dataset", *SETTING]
    own = rows[rows["variant"].eq(variant)]
    own = own.assign(exit=own["exit_block"], exit_block=own["exit_block"].where(own["policy"].ne("full")))
    found = own.merge(speeds[[*keys, "batch_size", *costs.values()]], on=keys).drop(columns="exit_block")
    found = found[found.groupby("dataset")["policy"].transform("nunique") > 1]
    return found.rename(columns={"exit": "exit_block"}).assign(cost_kind="ms", cost_validation=found["cost"])


def within_budgets(table: pd.DataFrame, folders: Mapping[str, Mapping[tuple[str, str], Path]]) -> pd.DataFrame:
    """Tabulate the best setting of each kind within each budget, and its difference to the best of all.

    Settings are picked on validation images. Differences are paired: over the same test images, their sources, and
    seeds. The verdict rests on the interval for the method, or with one seed on that for these modules.

    Args:
        table: Table `pareto`.
        folders: Folders of the evaluations by data set, backbone and variant.
    """
    records: list[dict] = []
    for dataset, own in table.groupby("dataset", sort=False):
        outcomes = PairedOutcomes(dict(folders[str(dataset)]))
        for _, group in own.groupby(["metric", *COSTS], dropna=False, sort=False):
            records += _picked(group, outcomes)
    return pd.DataFrame(records).reindex(columns=BUDGETS)


def _picked(group: pd.DataFrame, outcomes: PairedOutcomes) -> Iterator[dict]:
    """Yield the rows of the table `budgets` for one data set, metric, kind of cost and batch size."""
    metric = group["metric"].iloc[0]
    for budget in budgets(group, sorted(group["rate_target"].dropna().unique())).to_dict("records"):
        chosen = best_of_each_kind(group, budget["budget"])
        first = None
        for _, setting in chosen.iterrows():
            row = budget | setting[["dataset", "metric", *COSTS, "place", "picked_on", *CHOSEN]].to_dict()
            value = outcomes.value(setting, metric)
            if first is None:
                first = value
            else:
                found = difference(value - first, outcomes.sources)
                ends = {f"difference_{end}": found[end] for end in INTERVALS}
                by = "method_ci" if pd.notna(found["method_ci_low"]) else "ci"
                row |= {"difference": found["difference"]} | ends
                row["verdict"] = verdict(found[f"{by}_low"], found[f"{by}_high"])
            yield row


def _names(path: Path) -> dict[str, str]:
    """Return backbone, variant and data set of a file of an evaluation."""
    return dict(zip(("backbone", "variant", "dataset"), path.parts[-4:-1], strict=True))
