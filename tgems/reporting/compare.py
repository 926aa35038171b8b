"""Compare two finished runs: configuration, digests, numbers that moved beyond their intervals. Reads tables only."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tgems.errors import UserError
from tgems.provenance import read_json

KEYS = [
    *("backbone", "variant", "dataset", "policy", "twin_of", "calibration", "rate_target", "exit_block", "seed"),
    "metric",
]
Rows = list[tuple[str, ...]]


@dataclass(frozen=True)
class Comparison:
    """What differs: rows for printing, and one line that sums up."""

    config: Rows
    digests: Rows
    moved: Rows
    summary: str

    @property
    def differs(self) -> bool:
        """Whether a number moved beyond its interval, or exists in one run alone."""
        return bool(self.moved)


def compare_runs(a: Path, b: Path) -> Comparison:
    """Compare two results folders.

    A number moved where the 95 percent intervals of the two runs do not overlap; one without an interval where it
    differs at all.

    Raises:
        UserError: A folder holds no finished run.
    """
    first, second = (_provenance(folder) for folder in (a, b))
    config = _differences(_flat(first["config"]), _flat(second["config"]))
    digests = _differences(*(_digests(p["evaluations"]) for p in (first, second)))
    points = [_points(folder) for folder in (a, b)]
    both = points[0].merge(points[1], on=KEYS, suffixes=("_a", "_b"))
    apart = both["ci_low_a"].gt(both["ci_high_b"]) | both["ci_low_b"].gt(both["ci_high_a"])
    bare = both["ci_low_a"].isna() | both["ci_low_b"].isna()
    apart |= bare & both["value_a"].ne(both["value_b"]) & both["value_a"].notna()
    moved = [
        (_name(row), f"{row['value_a']:.4f}", f"{row['value_b']:.4f}", f"{row['value_b'] - row['value_a']:+.4f}")
        for row in both[apart].to_dict("records")
    ]
    only = len(points[0]) + len(points[1]) - 2 * len(both)
    same = int((both["value_a"] == both["value_b"]).sum())
    summary = (
        f"{len(both):,} numbers in both runs: {same:,} equal, {len(moved):,} moved beyond their intervals; "
        f"{only:,} in one run alone; {len(config)} configuration values and {len(digests)} digests differ"
    )
    return Comparison(config, digests, moved, summary)


def _provenance(folder: Path) -> dict:
    path = Path(folder) / "tables/provenance.json"
    if not path.is_file():
        raise UserError(f"{path}: missing; give the results folder of a finished run")
    return read_json(path)


def _points(folder: Path) -> pd.DataFrame:
    path = Path(folder) / "tables/tradeoff.csv"
    if not path.is_file():
        raise UserError(f"{path}: missing; give the results folder of a finished run")
    frame = pd.read_csv(path, low_memory=False)
    frame[KEYS] = frame[KEYS].astype("string").fillna("")
    return frame[[*KEYS, "value", "ci_low", "ci_high"]]


def _flat(value, prefix: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        return {
            k: v for key, part in value.items() for k, v in _flat(part, f"{prefix}.{key}" if prefix else key).items()
        }
    return {prefix: str(value)}


def _digests(evaluations: dict) -> dict[str, str]:
    """Digests of weights, data and modules; not of versions and commits, which `recorded` holds."""
    return _flat({k: {n: p for n, p in v.items() if n != "recorded"} for k, v in evaluations.items()})


def _differences(a: dict[str, str], b: dict[str, str]) -> Rows:
    names = [*a, *(name for name in b if name not in a)]
    return [(n, _short(a.get(n)), _short(b.get(n))) for n in names if a.get(n) != b.get(n)]


def _short(value: str | None) -> str:
    return "absent" if value is None else value if len(value) != 64 else value[:12]


def _name(row: dict) -> str:
    return " ".join(str(row[k]) for k in KEYS if row[k])
