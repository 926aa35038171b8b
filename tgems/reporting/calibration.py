"""Choose the rows to show for a data set if only one calibration and score normalisation is shown."""

import pandas as pd


def shown_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows under a data set's own thresholds, or transferred ones if it has none; others stay as they are.

    Rows with normalised scores are left out.
    """
    if "score_normalisation" in rows:
        rows = rows[rows["score_normalisation"].ne("querybank")]
    own = rows["dataset"].isin(rows.loc[rows["calibration"].eq("in_domain"), "dataset"])
    return rows[rows["calibration"].ne("transfer") | ~own]


def transferred(rows: pd.DataFrame) -> set[str]:
    """Return the data sets that have only transferred thresholds."""
    own = rows.loc[rows["calibration"].eq("in_domain"), "dataset"]
    return set(rows.loc[rows["calibration"].eq("transfer"), "dataset"]) - set(own)


def fitted(rows: pd.DataFrame) -> pd.DataFrame:
    """Return single seeds' rows of policies with fitted thresholds, one per operating point."""
    rows = rows[rows["score_normalisation"].eq("none") & rows["rate_validation"].notna() & rows["twin_of"].isna()]
    rows = rows[~rows["policy"].isin(["patience", "random", "hull", "hull_raw"]) & rows["seed"].ne("mean")]
    return rows.drop_duplicates(["backbone", "dataset", "policy", "calibration", "rate_target", "seed"])
