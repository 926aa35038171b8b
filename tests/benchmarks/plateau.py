"""Print how far twice the training moves the areas under the curves (docs/method.md#training-to-a-plateau).

snakemake --cores all --configfile configs/plateau.yaml && python tests/benchmarks/plateau.py
"""

import sys
from pathlib import Path

import pandas as pd

BOUND = 0.3
KEYS = ["backbone", "dataset", "metric", "policy"]


def differences(areas: pd.DataFrame) -> pd.DataFrame:
    """Areas in points of the variants `default` and `twice`, on validation and on test, and their differences."""
    areas = areas[areas["policy"].ne("shuffled")].set_index([*KEYS, "variant"])
    columns = {"validation": "area_validation", "test": "area"}
    parts = {}
    for split, column in columns.items():
        points = (100 * areas[column]).unstack("variant")[["default", "twice"]]
        parts[split] = points.assign(difference=points["twice"] - points["default"])
    return pd.concat(parts, axis=1)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("results/plateau")
    table = differences(pd.read_csv(folder / "tables/areas.csv"))
    print(table.round(2).to_string())
    moved = table.xs("difference", axis=1, level=1)
    for split in moved:
        place = moved[split].abs().idxmax()
        print(f"{split}: largest difference {moved[split][place]:+.2f} points ({', '.join(place)}); bound {BOUND}")
        print(f"{split}: {(moved[split].abs() <= BOUND).sum()} of {len(moved)} areas move by at most {BOUND} points")
