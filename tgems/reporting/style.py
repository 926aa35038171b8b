"""One look for all figures: colour-blind safe colours per policy, one font, PDF and PNG."""

from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import pandas as pd  # noqa: E402
import seaborn as sns  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from tgems.provenance import whole_file  # noqa: E402

WIDTH = 7.2  # inches: two columns of a paper


class Look(NamedTuple):
    """How a policy is drawn; `light` ones stand behind the others."""

    label: str
    color: str
    marker: str
    line: str = "-"
    light: bool = False


POLICY_LOOKS = {
    "tgem_bank": Look("T-GEM, bank-guided", "#0072B2", "o"),
    "tgem": Look("T-GEM, image-guided", "#D55E00", "s"),
    "margin": Look("margin", "#009E73", "^"),
    "max_softmax": Look("max softmax", "#56B4E9", "v"),
    "entropy": Look("entropy", "#CC79A7", "D"),
    "patience": Look("patience", "#8C6D31", "P"),
    "saturation": Look("saturation", "#E69F00", "X"),
    "learned_confidence": Look("learned confidence", "#000000", "+"),
    "fixed": Look("fixed exit, trained head", "#8A8A8A", "", "-", True),
    "fixed_raw": Look("fixed exit, frozen projection", "#8A8A8A", "", ":", True),
    "margin_raw": Look("margin, frozen projection", "#009E73", "", ":", True),
    "hull": Look("hull of fixed exits", "#8A8A8A", "", "--", True),
    "random": Look("random exit", "#BDBDBD", "", "-.", True),
    "shuffled": Look("T-GEM's exits, shuffled", "#7FB2D5", "", ":", True),
    "oracle": Look("oracle: first right exit", "#8A8A8A", "*", "", True),
    "oracle_agree": Look("oracle: first to agree for good", "#C9C9C9", "*", "", True),
}
METRIC_NAMES = {
    "acc1": "accuracy",
    "text_retrieval_recall@1": "R@1, image to text",
    "image_retrieval_recall@1": "R@1, text to image",
}


def look(policy: str) -> Look:
    """How to draw a policy; a user's own gets a colour by its name's place in the alphabet."""
    colors = sns.color_palette("colorblind").as_hex()
    return POLICY_LOOKS.get(policy) or Look(policy, colors[sum(policy.encode()) % len(colors)], "h")


def in_order(policies: pd.Series) -> list[str]:
    """Policies that occur, known ones first."""
    found = set(policies)
    return [p for p in POLICY_LOOKS if p in found] + sorted(found - {*POLICY_LOOKS, "full"})


def use_style() -> None:
    """Set seaborn's theme and matplotlib's fonts."""
    sns.set_theme(context="paper", style="whitegrid", font="DejaVu Sans")
    sizes = {"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7}
    plt.rcParams |= sizes | {"legend.fontsize": 7, "figure.titlesize": 9, "grid.linewidth": 0.5}
    plt.rcParams |= {"pdf.fonttype": 42, "legend.frameon": False, "figure.dpi": 100, "savefig.dpi": 200}


def save(figure: Figure, pdf: str, png: str) -> None:
    """Write both formats whole or not at all, without dates: the same figure gives the same bytes."""
    for path, metadata in ((pdf, {"CreationDate": None}), (png, {"Software": None})):
        with whole_file(Path(path)) as partial:
            figure.savefig(partial, format=Path(path).suffix[1:], bbox_inches="tight", metadata=metadata)
    plt.close(figure)
