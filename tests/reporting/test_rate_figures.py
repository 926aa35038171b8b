"""The figures of realised rates and of exits: marks are means, bars are ranges over seeds, shares are kept."""

import numpy as np
import pandas as pd
import pytest

from tgems.reporting.exit_histogram import exit_histogram
from tgems.reporting.rate_calibration import rate_calibration
from tgems.reporting.style import looks_of, use_style

ABOUT = {"backbone": "demo", "metric": "acc1", "score_normalisation": "none", "twin_of": None, "rate_validation": 0.5}
EXCESS = {"in_domain": 0.01, "transfer": -0.2, "online": 0.001}


@pytest.fixture
def panels():
    use_style()
    rows = [
        ABOUT | {"dataset": dataset, "calibration": calibration, "policy": policy, "rate_target": target, "seed": seed}
        | {"rate": target + EXCESS[calibration] + shift * (1 + k) / 100}
        for dataset in ("digits", "scenes")
        for calibration in EXCESS
        if (dataset, calibration) != ("scenes", "transfer")
        for k, policy in enumerate(("tgem", "margin", "entropy", "max_softmax", "router"))
        for target in (0.45, 0.6)
        for seed, shift in (("0", -1), ("1", 0), ("2", 4), ("mean", 50))
    ]  # fmt: skip
    areas = [
        {"policy": policy, "twin_of": None, "area_validation": area}
        for policy, area in (("tgem", 0.9), ("margin", 0.8), ("entropy", 0.7), ("max_softmax", 0.6), ("router", 0.5))
    ]
    figure = rate_calibration({"tradeoff": pd.DataFrame(rows), "areas": pd.DataFrame(areas)}, looks_of())
    return np.array(figure.axes).reshape(3, 2)


def test_marks_are_means_over_seeds_and_bars_their_range(panels):
    for axis, excess in zip(panels[:, 0], EXCESS.values(), strict=True):
        handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
        assert list(handles) == ["all other policies", "T-GEM, image-guided", "entropy", "margin"]
        marks, _, (bars,) = handles["margin"]
        assert marks.get_ydata() == pytest.approx([100 * excess + 2] * 2)
        assert bars.get_segments()[0][:, 1] == pytest.approx([100 * excess - 2, 100 * excess + 8])
        others = handles["all other policies"].get_segments()
        assert others[0][:, 1] == pytest.approx([100 * excess - 5, 100 * excess + 20])


def test_no_two_marks_share_a_place_and_targets_are_the_ticks(panels):
    axis = panels[2, 0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == [".45", ".6"]
    places = sorted(x for container in axis.containers for x in container[0].get_xdata())
    assert min(np.diff(places)) > 0.1


def test_the_panel_of_a_data_set_without_such_thresholds_says_so(panels):
    assert [text.get_text() for text in panels[1, 1].texts] == ["none"] and not panels[1, 1].containers
    assert not panels[0, 1].texts


def test_bars_are_shares_of_each_target_on_a_common_scale():
    use_style()
    shares = {0.45: [0.5, 0.25, 0.25, 0.0], 0.9: [0.0, 0.0, 0.0, 1.0]}
    rows = [
        {"backbone": "demo", "dataset": "digits", "policy": policy, "calibration": "in_domain", "rate_target": target}
        | {"seed": seed, "exit_block": block, "share": share + (0.1 if share == 0.25 else 0) * shift}
        for policy in ("tgem", "margin")
        for target, own in shares.items()
        for seed, shift in ((0, -1), (1, 1))
        for block, share in enumerate(own, start=1)
    ]
    (axis,) = exit_histogram({"exits": pd.DataFrame(rows)}, looks_of()).axes
    assert len(axis.containers) == 2, "one row of bars per target, of the T-GEM only"
    scale = axis.containers[1][3].get_height()
    for bars, own, base in zip(axis.containers, shares.values(), (0, 1), strict=True):
        assert [bar.get_height() / scale for bar in bars] == pytest.approx(own)
        assert all(bar.get_y() == base for bar in bars)
    assert scale < 1, "bars do not reach into the next histogram"
