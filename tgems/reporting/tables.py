"""Write the tables (CSV, Markdown, LaTeX) from the evaluation's and the profiler's parts."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tgems.profiling.costs import ExitCosts
from tgems.provenance import read_json, write_json, write_text


def make_tables(tradeoff: Sequence[str], semantic_content: Sequence[str], macs: dict[str, str], folder: Path) -> None:
    """Write `tradeoff`, `flops`, `semantic_content` and `summary`.

    Args:
        tradeoff: Parquet parts.
        semantic_content: Parquet parts.
        macs: Backbone -> its `macs.json`.
        folder: Folder of the tables.
    """
    points = pd.concat([pd.read_parquet(p) for p in tradeoff], ignore_index=True)
    profiles = {name: read_json(Path(path)) for name, path in macs.items()}
    tables = {
        "tradeoff": points,
        "flops": pd.concat([flops(name, profile) for name, profile in profiles.items()], ignore_index=True),
        "semantic_content": pd.concat([pd.read_parquet(p) for p in semantic_content], ignore_index=True),
        "summary": summary(points),
    }
    for name, table in tables.items():
        path = folder / name
        write_text(path.with_suffix(".csv"), table.to_csv(index=False, float_format="%.6g"))
        short = table if name in ("flops", "summary") else _means(table)
        write_text(path.with_suffix(".md"), _markdown(short))
        write_text(path.with_suffix(".tex"), short.to_latex(index=False, float_format="%.3f", na_rep="--", escape=True))


def write_provenance(evaluations: Sequence[str], config: dict, out: Path) -> None:
    """Write what every number of the tables comes from: the configuration, and per evaluation digests and versions."""
    parts = {"/".join(Path(path).parts[-3:-1]): read_json(Path(path)) for path in evaluations}
    write_json(out, {"config": config, "evaluations": parts})


def flops(backbone: str, profile: dict) -> pd.DataFrame:
    """Cost of every exit of one backbone, in GMACs (multiply-accumulates), modules of image guidance included."""
    raw = profile["costs"]
    costs = ExitCosts(**{k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()})
    total = costs.image_guided() * costs.full
    return pd.DataFrame(
        {
            "backbone": backbone,
            "exit_block": costs.blocks,
            "gmacs_encoder": [m / 1e9 for m in costs.encoder],
            "gmacs_exit_modules": (total - costs.encoder) / 1e9,
            "gmacs_total": total / 1e9,
            "gmacs_normalisation": [m / 1e9 for m in profile["normalisation"]],
            "rate": total / costs.full,
            "gmacs_closed_form": [m / 1e9 for m in profile["closed_form"]],
            "parameters_m": [p / 1e6 for p in profile["parameters"]],
        }
    )


def summary(points: pd.DataFrame) -> pd.DataFrame:
    """The paper-style table: per backbone, policy and target, mean cost and each data set's headline metrics.

    Values are means over seeds; `_std` columns hold the deviation over seeds. Rates and GMACs are means over the data
    sets of what was realised on test.
    """
    shown = points[points["policy"].isin(["full", "tgem", "tgem_bank", "margin", "shuffled", "hull"])]
    wanted = shown["metric"].eq("acc1") | shown["metric"].str.contains("recall@")
    shown = shown[wanted].copy()
    shown["column"] = shown["dataset"] + " " + shown["metric"]
    shown["policy"] = shown["policy"].where(
        shown["policy"] != "shuffled", shown["policy"] + " " + shown["variant"].fillna("")
    )
    keys = ["backbone", "policy", "rate_target"]
    means = shown[shown["seed"].eq("mean") | shown["policy"].eq("full")]
    values = means.groupby([*keys, "column"], dropna=False)["value"].mean().unstack("column")
    seeds = shown[shown["seed"].notna() & shown["seed"].ne("mean")]
    spread = seeds.groupby([*keys, "column"], dropna=False)["value"].std().unstack("column")
    columns = sorted(values.columns, key=lambda name: (name.split("@")[0], int(name.partition("@")[2] or 0)))
    costs = means.drop_duplicates([*keys, "dataset"]).groupby(keys, dropna=False)[["rate", "gmacs"]].mean()
    costs["saving"] = 1 - costs["rate"]
    frame = costs.join(values[columns]).join(spread.reindex(columns=columns).add_suffix(" std"))
    return frame.dropna(axis=1, how="all").reset_index()


def _means(table: pd.DataFrame) -> pd.DataFrame:
    """For reading: means over seeds, without the per-seed rows and columns that are all empty."""
    if "seed" in table:
        table = table[table["seed"].isna() | table["seed"].eq("mean")]
    return table.dropna(axis=1, how="all")


def _markdown(table: pd.DataFrame) -> str:
    """GitHub-flavoured Markdown."""

    def cell(value) -> str:
        if pd.isna(value):
            return ""
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(cell(v) for v in row) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines) + "\n"
