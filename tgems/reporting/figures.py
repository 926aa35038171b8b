"""Plot the figures of a run from its tables."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from tgems.reporting.all_policies import all_policies
from tgems.reporting.contributions import contributions
from tgems.reporting.exit_histogram import exit_histogram
from tgems.reporting.gallery import gallery
from tgems.reporting.rate_calibration import rate_calibration
from tgems.reporting.risk import risk
from tgems.reporting.semantic_content import semantic_content
from tgems.reporting.style import Looks, looks_of, save, use_style
from tgems.reporting.tradeoff import tradeoff

COMPARED = ("tradeoff", "policies", "contributions", "risk")


def plot_figure(
    name: str,
    tables: Sequence[str],
    parts: Mapping[str, Sequence[str]],
    variant: str,
    compared: Sequence[str],
    policies: Sequence[str],
    pdf: str,
    png: str,
) -> None:
    """Plot one figure of `FIGURES` and write it as PDF and PNG.

    Args:
        name: Key of `FIGURES`.
        tables: CSV files of the tables.
        parts: Parquet files of further tables by name (`exits`, `gallery`).
        variant: The variant to show.
        compared: Data sets that the figures of `COMPARED` show; the other figures show all.
        policies: Policies of the run, as in the configuration.
        pdf: PDF file to write.
        png: PNG file to write.
    """
    use_style()
    frames = {Path(p).stem: _read(Path(p)) for p in tables}
    for part, files in parts.items():
        frames[part] = pd.concat([pd.read_parquet(f) for f in files], ignore_index=True)
    frames = {k: f[f["variant"] == variant] if "variant" in f else f for k, f in frames.items()}
    if name in COMPARED:
        frames = {k: f[f["dataset"].isin(compared)] if "dataset" in f else f for k, f in frames.items()}
    save(FIGURES[name](frames, looks_of(policies)), pdf, png)


def _read(table: Path) -> pd.DataFrame:
    """Read a table; that of comparisons has neither rows nor columns in a run without T-GEMs."""
    return pd.read_csv(table, dtype={"seed": str}, low_memory=False) if table.stat().st_size > 1 else pd.DataFrame()


FIGURES: dict[str, Callable[[dict[str, pd.DataFrame], Looks], Figure]] = {
    "tradeoff": tradeoff,
    "policies": all_policies,
    "contributions": contributions,
    "semantic_content": semantic_content,
    "exit_histogram": exit_histogram,
    "rate_calibration": rate_calibration,
    "gallery": gallery,
    "risk": risk,
}
