"""Check the results of full encoders against published values, so that a faulty setup is noticed.

The file published.csv holds zero-shot results of released models as open_clip's documentation reports them. The
tolerance allows for differences between two tool chains in the decoding of images and in half precision, which come to
a few tenths of a point.
"""

import logging
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from tgems.reporting.published import PUBLISHED, identity, unaltered
from tgems.reporting.tables import write_table

logger = logging.getLogger(__name__)
TOLERANCE = 0.004


def check_references(points: pd.DataFrame, backbones: dict[str, dict], parts: Collection[str] = ()) -> pd.DataFrame:
    """Compare the full encoders of a run with the published values that there are for them.

    Args:
        points: Table `tradeoff`.
        backbones: Entries of the configuration by name.
        parts: Data sets of which only a part of the test split was evaluated. Published values are of whole splits.

    Returns:
        One row per backbone, data set and metric with a published value; `verdict` is `pass` or `fail`, or for a part
        of a split `part`, without published value and difference.
    """
    published = pd.read_csv(PUBLISHED)
    named = [(name, *identity(entry)) for name, entry in unaltered(backbones).items()]
    models = pd.DataFrame(named, columns=["backbone", "model", "pretrained"])
    full = points[points["policy"].eq("full") & points["score_normalisation"].eq("none")].drop_duplicates(
        ["backbone", "dataset", "metric"]
    )
    own = full[["backbone", "dataset", "metric", "value", "ci_low", "ci_high", "n"]]
    table = own.merge(models, on="backbone").merge(published, on=["model", "pretrained", "dataset", "metric"])
    table["difference"] = table["value"] - table["published"]
    table["tolerance"] = TOLERANCE
    table["verdict"] = table["difference"].abs().le(TOLERANCE + 1e-9).map({True: "pass", False: "fail"})
    part = table["dataset"].isin(parts)
    table.loc[part, ["published", "difference", "tolerance"]] = float("nan")
    table.loc[part, "verdict"] = "part"
    order = ["backbone", "model", "pretrained", "dataset", "metric", "value", "ci_low", "ci_high", "published"]
    return table[[*order, "difference", "tolerance", "verdict", "n", "source"]]


def write_references(tradeoff: Path, backbones: dict[str, dict], out: Path, parts: Collection[str] = ()) -> None:
    """Write the table `references`, and log a warning for each result that misses its published value.

    Args:
        tradeoff: CSV file of the table `tradeoff`.
        backbones: Entries of the configuration by name.
        out: CSV file to write; the other formats are written beside it.
        parts: Data sets of which only a part of the test split was evaluated.
    """
    table = check_references(pd.read_csv(tradeoff, low_memory=False), backbones, parts)
    for row in table[table["verdict"] == "fail"].itertuples():
        logger.warning(
            "%s on %s: %s is %.4f, published is %.4f", row.backbone, row.dataset, row.metric, row.value, row.published
        )
    compared = table["verdict"] != "part"
    logger.info("%d of %d published values are met", (table["verdict"] == "pass").sum(), compared.sum())
    for dataset in table["dataset"][~compared].unique():
        logger.info("%s: a part of the test split, which published values of the whole do not apply to", dataset)
    write_table(out.with_suffix(""), table, table.drop(columns=["source"]))
