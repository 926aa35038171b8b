"""The figure of promises of quality: which policies it shows, and which it calls the cheapest."""

import pandas as pd
import pytest

from tgems.reporting.risk import risk
from tgems.reporting.style import looks_of, use_style

RATES = {
    "demo-vit-8": {"fixed": 0.9, "fixed_raw": 0.5, "margin": 0.6, "entropy": 0.5, "max_softmax": 0.8, "tgem": 0.7}
    | {"tgem_bank": 0.65, "margin_raw": 0.75, "saturation_raw": 0.4},
    "demo-vit-12": {"fixed": 1.0, "margin": 1.0, "entropy": 1.0, "max_softmax": 1.0, "tgem": 1.0},
}


@pytest.fixture
def axes():
    use_style()
    rows = [
        {"backbone": backbone, "dataset": "digits", "policy": policy, "risk_target": target, "seed": seed}
        | {"rate": rate - target / 2 if rate < 1 else rate, "rate_ci_low": rate - 0.1, "rate_ci_high": rate}
        for backbone, rates in RATES.items()
        for policy, rate in rates.items()
        for target in (0.01, 0.05, 0.1)
        for seed in ("0", "mean")
    ]
    figure = risk({"risk": pd.DataFrame(rows)}, looks_of())
    return {axis.get_title(): axis for axis in figure.axes if axis.get_title()}


def test_each_panel_names_the_cheapest_policy_at_the_middle_target(axes):
    assert list(axes) == [
        "demo-vit-8: digits\ncheapest at .05: saturation, frozen projection",
        "demo-vit-12: digits\ncheapest at .05: full encoder",
    ]


def test_marks_are_of_the_t_gems_fixed_exits_and_the_cheapest_others(axes):
    panel, looks = next(iter(axes.values())), looks_of()
    shown = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    expected = {"fixed", "saturation_raw", "margin", "entropy", "tgem", "tgem_bank"}
    assert set(shown) == {looks[policy].label for policy in expected} | {"full encoder"}
    marks, _, (bars,) = shown[looks["margin"].label]
    assert list(marks.get_ydata()) == pytest.approx([0.595, 0.575, 0.55])
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [pytest.approx([0.5, 0.6])] * 3
    assert [text.get_text() for text in panel.get_xticklabels()] == ["1", "5", "10"]
