"""Which rows stand for a data set where only one calibration is shown."""

import pandas as pd


def shown_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows under a data set's own thresholds, or transferred ones where it has none; uncalibrated rows as they are."""
    own = rows["dataset"].isin(rows.loc[rows["calibration"].eq("in_domain"), "dataset"])
    return rows[rows["calibration"].ne("transfer") | ~own]


def transferred(rows: pd.DataFrame) -> set[str]:
    """Data sets that have transferred thresholds alone."""
    own = rows.loc[rows["calibration"].eq("in_domain"), "dataset"]
    return set(rows.loc[rows["calibration"].eq("transfer"), "dataset"]) - set(own)
