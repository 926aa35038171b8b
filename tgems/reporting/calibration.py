"""Select the rows to show for a data set where only one calibration and score normalisation is shown."""

import pandas as pd


def shown_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep, for each data set, the rows under its own thresholds, or under transferred ones if it has none.

    Rows without a calibration are kept; rows with normalised scores or with thresholds that move are left out.
    """
    rows = rows[rows["calibration"].ne("online")]
    if "score_normalisation" in rows:
        rows = rows[rows["score_normalisation"].ne("querybank")]
    has_own = rows["dataset"].isin(rows.loc[rows["calibration"].eq("in_domain"), "dataset"])
    return rows[rows["calibration"].ne("transfer") | ~has_own]


def transferred(rows: pd.DataFrame) -> set[str]:
    """Return the data sets that have only transferred thresholds."""
    own = rows.loc[rows["calibration"].eq("in_domain"), "dataset"]
    return set(rows.loc[rows["calibration"].eq("transfer"), "dataset"]) - set(own)


def fitted(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of single seeds for policies with fitted thresholds, one per operating point."""
    rows = rows[rows["score_normalisation"].eq("none") & rows["rate_validation"].notna() & rows["twin_of"].isna()]
    rows = rows[~rows["policy"].isin(["patience", "random", "hull", "hull_raw"]) & rows["seed"].ne("mean")]
    return rows.drop_duplicates(["backbone", "dataset", "policy", "calibration", "rate_target", "seed"])
