"""One look for all figures: colour-blind safe colours per policy, one font size, PDF and PNG."""

import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import seaborn as sns  # noqa: E402

POLICY_STYLE = {
    "tgem_bank": ("T-GEM, bank-guided", "#0072B2", "o"),
    "tgem": ("T-GEM, image-guided", "#D55E00", "s"),
    "margin": ("margin", "#009E73", "^"),
    "fixed": ("fixed exit, trained head", "#7F7F7F", "."),
    "fixed_raw": ("fixed exit, frozen head", "#BFBFBF", "."),
    "hull": ("hull of fixed exits", "#000000", ""),
    "shuffled": ("T-GEM exits, shuffled", "#E69F00", "x"),
}
METRIC_NAMES = {
    "acc1": "accuracy",
    "text_retrieval_recall@1": "R@1, image to text",
    "image_retrieval_recall@1": "R@1, text to image",
}


def use_style() -> None:
    """Set seaborn's theme and matplotlib's fonts; deterministic PDF metadata."""
    sns.set_theme(context="paper", style="whitegrid", font_scale=1.0)
    plt.rcParams |= {"pdf.fonttype": 42, "legend.frameon": False, "figure.dpi": 100, "savefig.dpi": 160}


def save(figure, pdf: str, png: str) -> None:
    """Write both formats under temporary names, then rename; the same figure gives the same bytes."""
    for path, metadata in ((pdf, {"CreationDate": None}), (png, {"Software": None})):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name("partial-" + path.name)
        figure.savefig(partial, bbox_inches="tight", metadata=metadata)
        os.replace(partial, path)
    plt.close(figure)
