"""Print the quality of early exit beside that of thinner encoders, in order of cost (docs/method.md#token-merging).

snakemake --cores all --configfile configs/alternatives.yaml && python tests/benchmarks/alternatives.py
"""

import sys
from pathlib import Path

import pandas as pd

METRICS = {
    "digits, accuracy": ("digits", "acc1"),
    "scenes, R@1 from image to text": ("scenes", "text_retrieval_recall@1"),
    "scenes, R@1 from text to image": ("scenes", "image_retrieval_recall@1"),
}


def quality_over_cost(points: pd.DataFrame, dataset: str, metric: str) -> pd.DataFrame:
    """Return full encoders and calibrated policies in order of cost.

    Args:
        points: Table `tradeoff` of a run with one kind of calibration.
        dataset: Data set.
        metric: Metric.

    Returns:
        One row per backbone, policy and rate target: cost and value as means over seeds, and whether no cheaper row is
        at least as good.
    """
    kept = points["policy"].eq("full") | points["rate_target"].notna()
    kept &= points["dataset"].eq(dataset) & points["metric"].eq(metric)
    kept &= points["twin_of"].isna() & points["score_normalisation"].eq("none")
    named = points[kept].groupby(["backbone", "policy", "rate_target"], dropna=False)
    rows = named[["gmacs", "value"]].mean().reset_index().sort_values(["gmacs", "value"], ascending=[True, False])
    return rows.assign(best=rows["value"] > rows["value"].cummax().shift(fill_value=-1))


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("results/alternatives")
    tradeoff = pd.read_csv(folder / "tables/tradeoff.csv", low_memory=False)
    for title, (dataset, metric) in METRICS.items():
        table = quality_over_cost(tradeoff, dataset, metric)
        table.insert(0, "MMACs", (1e3 * table.pop("gmacs")).round(2))
        print(f"{title}\n{table.round(3).to_string(index=False, na_rep='')}\n")
