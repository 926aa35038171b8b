"""The headline figure and the heat map of all policies: what is drawn, and that the numbers are those of the tables."""

import numpy as np
import pandas as pd
import pytest

from tgems.config.run import ALL_POLICIES
from tgems.reporting.all_policies import all_policies
from tgems.reporting.style import looks_of, use_style
from tgems.reporting.tradeoff import tradeoff

OWN = """
from tgems.policies.confidence import Margin
class Mine(Margin):
    name = "mine"
    label = "my rule"
"""
TARGETS = (0.3, 0.6, 0.9)
VALUES = {"hull": 0.7, "tgem": 0.74, "margin": 0.78, "entropy": 0.79, "router": 0.6, "mine": 0.77, "saturation": 0.5}
VALIDATION = {"hull": 0.9, "tgem": 0.9, "margin": 0.8, "entropy": 0.7, "router": 0.6, "oracle": 0.99, "saturation": 0.5}
"""Value on test at the first target, to which .1 is added per target; area on validation, in another order."""


def run(policies=tuple(VALUES), targets=TARGETS) -> dict[str, pd.DataFrame]:
    """The tables of a made-up run on one data set."""
    about = {"backbone": "demo", "dataset": "digits", "metric": "acc1"}
    frozen = {"twin_of": None, "calibration": None, "score_normalisation": "none", "rate_target": np.nan, "seed": None}
    rows = [about | frozen | {"policy": "full", "rate": 1.0, "value": 0.98}]
    rows += [about | frozen | {"policy": "oracle", "rate": 0.4, "value": 0.99}]
    for k, target in enumerate(targets):
        fitted = frozen | {"rate_target": target, "calibration": "in_domain", "rate": target - 0.01}
        for seed, shift in (("0", -0.2), ("1", 0.2), ("mean", 0.0)):
            rows += [
                about | fitted | {"policy": policy, "value": VALUES[policy] + 0.1 * k + shift, "seed": seed}
                for policy in policies
            ]
            twin = {"policy": "shuffled", "twin_of": "tgem", "value": 0.65 + 0.1 * k + shift, "seed": seed}
            rows.append(about | fitted | twin)
    areas = [
        about | {"policy": policy, "twin_of": None, "calibration": "in_domain", "area_validation": VALIDATION[policy]}
        for policy in (*policies, "oracle")
        if policy in VALIDATION
    ]
    wins = [
        about | {"policy": "tgem", "calibration": "in_domain", "competitor": "hull", "rate_target": target}
        | {"rate": target - 0.01, "difference": 0.04, "ci_low": 0.03, "ci_high": 0.05}
        | {"method_ci_low": 0.01, "method_ci_high": 0.07}
        for target in targets
    ]  # fmt: skip
    return {"tradeoff": pd.DataFrame(rows), "areas": pd.DataFrame(areas), "wins": pd.DataFrame(wins)}


@pytest.fixture
def looks(tmp_path):
    use_style()
    (tmp_path / "own.py").write_text(OWN)
    return looks_of([*ALL_POLICIES, f"{tmp_path}/own.py:Mine"])


def lines_of(axis):
    return {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}


def test_lines_are_few_and_the_rival_is_picked_on_validation(looks):
    over, under = tradeoff(run(), looks).axes
    lines = lines_of(over)
    assert set(lines) == {
        "full encoder", "hull of fixed exits", "T-GEM, image-guided", "T-GEM, image-guided, shuffled",
        "best other policy (named)", "my rule",
    }  # fmt: skip
    assert "margin" in over.texts[0].get_text(), "entropy is better on test, and oracles are no policies to use"
    assert lines["best other policy (named)"].get_ydata() == pytest.approx([78, 88, 98])
    assert lines["T-GEM, image-guided"].get_xdata() == pytest.approx([0.29, 0.59, 0.89])
    assert set(lines_of(under)) == set(lines) - {"full encoder", "hull of fixed exits"}


def test_differences_are_those_of_the_tables_with_the_interval_of_the_method(looks):
    _, under = tradeoff(run(), looks).axes
    lines = lines_of(under)
    assert lines["T-GEM, image-guided"].get_ydata() == pytest.approx([4, 4, 4])
    assert lines["T-GEM, image-guided, shuffled"].get_ydata() == pytest.approx([-5, -5, -5])
    (band,) = under.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((1, 7))


def test_with_one_seed_the_interval_is_that_of_the_images(looks):
    frames = run()
    frames["wins"][["method_ci_low", "method_ci_high"]] = np.nan
    _, under = tradeoff(frames, looks).axes
    heights = under.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((3, 5))


@pytest.mark.parametrize("value", [0.5, 0.98, 1.0])
def test_no_axis_goes_past_a_hundred_percent(looks, value):
    frames = run()
    frames["tradeoff"]["value"] = value
    over, _ = tradeoff(frames, looks).axes
    low, high = over.get_ylim()
    assert low < 100 * value <= high <= 100


def test_a_run_with_one_target_and_few_policies_shows_points_with_bars(looks):
    frames = run(["tgem", "saturation"], targets=(0.6,))
    fixed = frames["tradeoff"].iloc[[0, 0]].assign(policy="fixed", seed="mean", rate=[0.2, 0.8], value=[0.6, 0.9])
    frames["tradeoff"] = pd.concat([frames["tradeoff"], fixed], ignore_index=True)
    frames["wins"]["competitor"] = "fixed"
    over, under = tradeoff(frames, looks).axes
    assert "saturation" in over.texts[0].get_text()
    assert under.get_ylabel() == "minus fixed\n(points)"
    (bar,) = under.collections
    assert bar.get_segments()[0][:, 1] == pytest.approx([1, 7])
    assert lines_of(under)["best other policy (named)"].get_ydata() == pytest.approx([50 - (60 + 30 * 0.39 / 0.6)])


def test_a_run_without_t_gems_has_no_bands(looks):
    frames = run(["hull", "margin"])
    frames["tradeoff"] = frames["tradeoff"][frames["tradeoff"]["policy"] != "shuffled"]
    frames["wins"] = pd.DataFrame()
    over, under = tradeoff(frames, looks).axes
    assert set(lines_of(over)) == {"full encoder", "hull of fixed exits", "best other policy (named)"}
    assert not under.collections


def test_cells_are_rounded_differences_to_the_hull_at_the_realised_rate(looks):
    (axis,) = all_policies(run(), looks).axes
    labels = [label.get_text() for label in axis.get_yticklabels()]
    cells = np.full((len(labels), 3), "", dtype=object)
    for text in axis.texts:
        column, row = text.get_position()
        cells[int(row), int(column)] = text.get_text()
    table = dict(zip(labels, cells.tolist(), strict=True))
    assert table["hull of fixed exits (%)"] == ["70", "80", "90"]
    assert table["margin"] == ["+8"] * 3 and table["my rule"] == ["+7"] * 3
    assert table["T-GEM, image-guided, shuffled"] == ["\N{MINUS SIGN}5"] * 3
    assert table["ICAR router"] == ["\N{MINUS SIGN}10"] * 3
    assert table["oracle: first right exit"] == ["", "+19", "+9"], "it spends .4"
    assert set(table) >= {"full encoder", "entropy", "saturation", "T-GEM, image-guided"}


def test_a_run_of_fixed_exits_alone_shows_them(looks):
    frames = run([])
    fixed = frames["tradeoff"].iloc[[0, 0]].assign(policy="fixed", seed="mean", rate=[0.2, 0.8], value=[0.6, 0.9])
    frames["tradeoff"] = pd.concat([frames["tradeoff"].query("policy == 'full'"), fixed], ignore_index=True)
    frames["wins"] = pd.DataFrame()
    over, under = tradeoff(frames, looks).axes
    assert set(lines_of(over)) == {"full encoder", "fixed exit, trained head"} and not lines_of(under)
    assert over.get_ylim()[0] < 90


def test_a_metric_that_no_adaptive_policy_may_have_has_a_panel_of_its_references(looks):
    frames = run(["margin"])
    kept = frames["tradeoff"][frames["tradeoff"]["policy"].isin(["full", "margin"])]
    fixed = kept.iloc[[0, 0]].assign(policy="fixed", seed="mean", rate=[0.2, 0.8], value=[0.6, 0.9])
    kept = pd.concat([kept, fixed], ignore_index=True)
    other = kept[kept["policy"] != "margin"].assign(metric="image_retrieval_recall@1")
    frames["tradeoff"] = pd.concat([kept, other], ignore_index=True)
    assert len(tradeoff(frames, looks).axes) == 4
    _, texts = all_policies(frames, looks).axes
    assert [text.get_text() for text in texts.texts if text.get_position()[1] == 0] == ["65", "80", "90"]
