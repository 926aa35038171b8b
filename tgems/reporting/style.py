"""The style that all figures share: how each policy is drawn, fonts, and output as PDF and PNG.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; lines in one panel also differ in marker
and dash, so that they can be told apart in grey. Figures are as wide as one or two columns of a paper, and no text in
them is smaller than 8 points.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import pandas as pd  # noqa: E402
import seaborn as sns  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from tgems.config.run import ALL_POLICIES  # noqa: E402
from tgems.outputs import whole_file  # noqa: E402
from tgems.policies.declarations import declared  # noqa: E402

WIDTH = 7.0
HALF_WIDTH = 3.4
"""Inches: two columns of a paper, and one."""
FONT_SIZE = 8
"""Points."""
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "X", "P", "p")
DASHES = ("-", "--", "-.", ":")
GREY = "#7F7F7F"
METRIC_NAMES = {
    "acc1": "accuracy",
    "text_retrieval_recall@1": "R@1, image to text",
    "image_retrieval_recall@1": "R@1, text to image",
}


class Look(NamedTuple):
    """How to draw a policy, and the attributes that its class declares (`tgems.policies.interface.Policy`).

    Attributes:
        label: Name in figures.
        color: Color.
        marker: Marker; empty for none.
        line: Line style; empty for none.
        contender: Whether it is a T-GEM.
        rival: Whether it is an adaptive policy that T-GEMs compete with: neither a T-GEM nor an oracle.
        oracle: Whether it knows the right answer.
        frozen_head: Whether it embeds by the backbone's own projection.
        own: Whether the user wrote it (`FILE.py:CLASS`).
    """

    label: str
    color: str
    marker: str
    line: str = "-"
    contender: bool = False
    rival: bool = False
    oracle: bool = False
    frozen_head: bool = False
    own: bool = False

    @property
    def order(self) -> tuple[bool, bool, bool, bool]:
        """Sort key: T-GEMs first, then other adaptive policies, then those that ignore the image, and oracles last."""
        return not self.contender, self.oracle, not self.rival, self.frozen_head


@dataclass(frozen=True)
class Looks:
    """The looks of the policies of a run, by name.

    Attributes:
        by_name: Looks, in the order in which policies are drawn.
    """

    by_name: dict[str, Look]

    def __getitem__(self, policy: str) -> Look:
        return self.by_name[policy]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def among(self, policies: pd.Series) -> list[str]:
        """Return the policies that occur, in the order in which they are drawn."""
        found = set(policies)
        return [policy for policy in self if policy in found]

    def contenders(self, policies: pd.Series) -> list[str]:
        """Return the T-GEMs that occur."""
        return [policy for policy in self.among(policies) if self[policy].contender]


def looks_of(policies: Sequence[str] = ALL_POLICIES) -> Looks:
    """Return how to draw the policies of a run, as their classes declare it.

    Args:
        policies: Names of policies, or `FILE.py:CLASS` for those of your own.
    """
    found = {}
    for word in policies:
        if word == "shuffled":  # exits of another policy, drawn beside it
            continue
        own = declared(word)
        label = own["label"] or own["name"]
        found[own["name"]] = Look(
            label=f" {label}" if label.startswith("_") else label,  # matplotlib leaves labels with `_` out of legends
            color=own["color"] or OKABE_ITO[sum(own["name"].encode()) % 7],
            marker=own["marker"],
            line=own["line"],
            contender=own["contender"],
            rival=own["adaptive"] and not own["contender"] and not own["oracle"],
            oracle=own["oracle"],
            frozen_head=own["frozen_head"],
            own=":" in word,
        )
    return Looks(dict(sorted(found.items(), key=lambda item: item[1].order)))


def use_style() -> None:
    """Set seaborn's theme and matplotlib's fonts and lines."""
    sns.set_theme(context="paper", style="whitegrid", font="DejaVu Sans")
    sizes = ("font.size", "axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize")
    plt.rcParams |= dict.fromkeys((*sizes, "legend.title_fontsize", "figure.titlesize", "figure.labelsize"), FONT_SIZE)
    plt.rcParams |= {"grid.linewidth": 0.4, "grid.color": "#DDDDDD", "axes.edgecolor": "#AAAAAA", "axes.linewidth": 0.6}
    plt.rcParams |= {"axes.titlepad": 3, "axes.labelpad": 2, "xtick.major.pad": 1.5, "ytick.major.pad": 1.5}
    plt.rcParams |= {
        "lines.markersize": 3.5,
        "lines.linewidth": 1.3,
        "legend.frameon": False,
        "legend.handlelength": 2.4,
    }
    plt.rcParams |= {"pdf.fonttype": 42, "figure.dpi": 100, "savefig.dpi": 200}
    plt.rcParams["text.parse_math"] = False  # a dollar sign in a caption or a name is a dollar sign


def short(rate: float) -> str:
    """Write a rate as in tables, without a leading zero."""
    return f"{rate:g}".removeprefix("0")


def save(figure: Figure, pdf: str, png: str) -> None:
    """Write a figure as PDF and PNG, completely or not at all, and without dates, so that bytes are reproducible."""
    for path, metadata in ((pdf, {"CreationDate": None}), (png, {"Software": None})):
        with whole_file(Path(path)) as partial:
            figure.savefig(
                partial, format=Path(path).suffix[1:], bbox_inches="tight", pad_inches=0.02, metadata=metadata
            )
    plt.close(figure)
