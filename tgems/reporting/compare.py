"""Compare the tables of two finished runs: configuration, digests, and numbers that moved beyond their intervals."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tgems.provenance import FINISHED, read_provenance
from tgems.reporting.run_record import flatten
from tgems.untrusted import read_table

KEYS = [
    *("backbone", "variant", "dataset", "policy", "twin_of", "calibration", "score_normalisation"),
    *("rate_target", "exit_block", "seed", "metric"),
]
Rows = list[tuple[str, ...]]


@dataclass(frozen=True)
class Comparison:
    """The differences between two runs, as rows to print and a summary in one line.

    Attributes:
        config: Values of the configuration that differ.
        digests: Digests of weights, data and modules that differ.
        unmatched: Number of results, by backbone, data set and policy, that only one run has.
        moved: Numbers that moved beyond their intervals.
        summary: Counts of all these, in one line.
    """

    config: Rows
    digests: Rows
    unmatched: Rows
    moved: Rows
    summary: str

    @property
    def differs(self) -> bool:
        """Whether a number moved beyond its interval, or exists in only one run."""
        return bool(self.moved or self.unmatched)


def compare_runs(a: Path, b: Path) -> Comparison:
    """Compare two results folders.

    Numbers are metrics and realised rates. A number moved if the 95 percent intervals of the two runs do not overlap,
    or, if it has no interval, if it differs at all.

    Raises:
        UserError: A folder does not hold a finished run.
    """
    first, second = (read_provenance(Path(folder) / "tables/provenance.json") for folder in (a, b))
    config = _differences(flatten(first["config"]), flatten(second["config"]))
    digests = _differences(*(_digests(p["evaluations"]) for p in (first, second)))
    points = [_points(folder) for folder in (a, b)]
    every = points[0].merge(points[1], "outer", on=KEYS, suffixes=("_a", "_b"), indicator=True)
    both, unmatched = every[every["_merge"] == "both"], _unmatched(every[every["_merge"] != "both"])
    same = both["value_a"].eq(both["value_b"]) | (both["value_a"].isna() & both["value_b"].isna())
    apart = both["ci_low_a"].gt(both["ci_high_b"]) | both["ci_low_b"].gt(both["ci_high_a"])
    apart |= both[["ci_low_a", "ci_low_b"]].isna().any(axis=1) & ~same
    moved = [
        (_name(row), f"{row['value_a']:.4f}", f"{row['value_b']:.4f}", f"{row['value_b'] - row['value_a']:+.4f}")
        for row in both[apart].to_dict("records")
    ]
    summary = (
        f"{len(both):,} numbers in both runs: {int(same.sum()):,} equal, {len(moved):,} moved beyond their intervals; "
        f"{len(every) - len(both):,} in only one run; {len(config)} configuration values and {len(digests)} digests "
        "differ"
    )
    return Comparison(config, digests, unmatched, moved, summary)


def _unmatched(points: pd.DataFrame) -> Rows:
    """Count the numbers that only one run has."""
    groups = points.groupby(["backbone", "dataset", "policy", "_merge"], observed=True).size().unstack(fill_value=0)
    groups = groups.reindex(columns=["left_only", "right_only"], fill_value=0)
    return [
        (" ".join(map(str, name)), str(a), str(b)) for name, (a, b) in zip(groups.index, groups.values, strict=True)
    ]


def _points(folder: Path) -> pd.DataFrame:
    path = Path(folder) / "tables/tradeoff.csv"
    keys = [key for key in KEYS if key != "score_normalisation"]
    numbers = ["value", "ci_low", "ci_high", "rate", "rate_ci_low", "rate_ci_high"]
    frame = read_table(path, keys, FINISHED, numbers, low_memory=False)
    frame["score_normalisation"] = frame.get("score_normalisation", "none")
    frame[KEYS] = frame[KEYS].astype("string").fillna("")
    rates = {"rate": "value", "rate_ci_low": "ci_low", "rate_ci_high": "ci_high"}
    spent = frame.drop_duplicates(KEYS[:-1])[[*KEYS, *rates]].rename(columns=rates).assign(metric="rate")
    return pd.concat([frame[[*KEYS, "value", "ci_low", "ci_high"]], spent], ignore_index=True)


def _digests(evaluations: dict) -> dict[str, str]:
    """Return digests of weights, data and modules, without versions and commits, which `recorded` holds."""
    return {k: v for k, v in flatten(evaluations).items() if "recorded" not in k.split(".")}


def _differences(a: dict[str, str], b: dict[str, str]) -> Rows:
    names = [*a, *(name for name in b if name not in a)]
    return [(n, _short(a.get(n)), _short(b.get(n))) for n in names if a.get(n) != b.get(n)]


def _short(value: str | None) -> str:
    return "absent" if value is None else value if len(value) != 64 else value[:12]


def _name(row: dict) -> str:
    return " ".join(str(row[k]) for k in KEYS if row[k])
